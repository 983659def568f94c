//! The detectors.

use crate::arrays::{metrics_dict, whole};
use crate::errors::IntoPy;
use crate::state::{State, state_methods};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sona_core::Result;
use sona_core::control::detect::{
    Adwin, Agreement, AnomalyDetector, Cusum, Detector, Direction, Ewma, PageHinkley, RobustZ,
};

/// A class around a detector: its own part, and what all share.
macro_rules! detector {
    ($(#[$doc:meta])* $class:ident, $name:literal, $core:ty, { $($own:tt)* }) => {
        $(#[$doc])*
        #[pyclass(name = $name, module = "sona.control", frozen)]
        pub(crate) struct $class {
            inner: Mutex<$core>,
        }

        #[pymethods]
        impl $class {
            $($own)*

            /// Let one value in; NaN and infinity count as missing. Returns whether to raise an alarm now.
            fn update(&self, x: f64) -> bool {
                self.inner.lock().update(x)
            }

            /// Values seen and missing, alarms, and the present state.
            fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
                let metrics = self.inner.lock().metrics();
                metrics_dict(py, &metrics)
            }

            fn __repr__(&self) -> String {
                let state: Vec<String> = self
                    .inner
                    .lock()
                    .metrics()
                    .iter()
                    .map(|(name, value)| match value {
                        sona_core::metrics::Metric::Int(v) => format!("{name}={v}"),
                        sona_core::metrics::Metric::Float(v) => format!("{name}={v:.4}"),
                    })
                    .collect();
                format!("{}({})", $name, state.join(", "))
            }
        }

        impl State for $class {
            fn encode(&self) -> Result<Vec<u8>> {
                self.inner.lock().to_bytes()
            }

            fn decode(data: &[u8]) -> Result<Self> {
                Ok(Self {
                    inner: Mutex::new(Detector::from_bytes(data)?),
                })
            }
        }

        state_methods!($class);
    };
}

detector!(
    /// Alarm on a value far from the running mean, in running standard deviations.
    ///
    /// Starts from the mean x₀ and `initial_variance`; score |x − m|/√(v + 1e-12), 0 up to step `warmup`; then m += α·d and
    /// v = (1 − α)(v + α·d²) with d = x − m.
    ///
    /// Parameters
    /// ----------
    /// alpha : float, default 0.02
    ///     Weight of a new value, in (0, 1].
    /// threshold : float, default 6.0
    ///     An alarm is a score above it.
    /// warmup : int, default 30
    /// initial_variance : float, default 1e-9
    ///
    /// Raises
    /// ------
    /// ConfigError
    ///     If a setting is out of range.
    ///
    /// Notes
    /// -----
    /// O(1). Roberts 1959, Control chart tests based on geometric moving averages.
    ///
    /// Examples
    /// --------
    /// >>> from sona.control import Ewma
    /// >>> detector = Ewma(warmup=3)
    /// >>> [detector.update(x) for x in [1.0, 1.1, 0.9, 1.0, 1.05, 9.0]]
    /// [False, False, False, False, False, True]
    PyEwma, "Ewma", Ewma, {
    #[new]
    #[pyo3(signature = (alpha=0.02, *, threshold=6.0, warmup=30, initial_variance=1e-9))]
    fn new(alpha: f64, threshold: f64, warmup: i128, initial_variance: f64) -> PyResult<Self> {
        let warmup: u64 = whole("warmup", warmup)?;
        Ok(Self {
            inner: Mutex::new(Ewma::new(alpha, threshold, warmup, initial_variance).py()?),
        })
    }

    /// Of the latest value.
    #[getter]
    fn score(&self) -> f64 {
        self.inner.lock().score()
    }

    /// The running mean.
    #[getter]
    fn mean(&self) -> f64 {
        self.inner.lock().mean()
    }

    /// The running standard deviation.
    #[getter]
    fn std(&self) -> f64 {
        self.inner.lock().std()
    }
}
);

detector!(
    /// Alarm on a value far from the median of the previous values.
    ///
    /// Score |x − median|/(1.4826·MAD + 1e-3·|median| + 1e-9) against the previous `window` values; 0 with fewer than `min_count`.
    ///
    /// Parameters
    /// ----------
    /// window : int, default 100
    /// threshold : float, default 6.0
    /// min_count : int, default 30
    ///
    /// Raises
    /// ------
    /// ConfigError
    ///     If a setting is out of range.
    ///
    /// Notes
    /// -----
    /// O(window) moves of memory, some 100 ns for 100 values. Hampel 1974.
    ///
    /// Examples
    /// --------
    /// >>> from sona.control import RobustZ
    /// >>> detector = RobustZ(10, min_count=5)
    /// >>> [detector.update(x) for x in [1.0, 1.2, 0.8, 1.1, 0.9, 1.0, 50.0]][-2:]
    /// [False, True]
    PyRobustZ, "RobustZ", RobustZ, {
    #[new]
    #[pyo3(signature = (window=100, *, threshold=6.0, min_count=30))]
    fn new(window: i128, threshold: f64, min_count: i128) -> PyResult<Self> {
        let window: usize = whole("window", window)?;
        let min_count: usize = whole("min_count", min_count)?;
        Ok(Self {
            inner: Mutex::new(RobustZ::new(window, threshold, min_count).py()?),
        })
    }

    /// Of the latest value.
    #[getter]
    fn score(&self) -> f64 {
        self.inner.lock().score()
    }
}
);

detector!(
    /// Alarm on a small shift that lasts.
    ///
    /// z = (x − mean)/std; S⁺ = max(0, S⁺ + z − k), S⁻ = max(0, S⁻ − z − k); an alarm when one exceeds `h`, then both start anew.
    ///
    /// Parameters
    /// ----------
    /// mean, std : float
    ///     Of the normal state.
    /// k : float, default 0.5
    ///     Half of the shift to find, in standard deviations.
    /// h : float, default 5.0
    ///
    /// Raises
    /// ------
    /// ConfigError
    ///     If a setting is out of range.
    ///
    /// Notes
    /// -----
    /// O(1). Page 1954, Continuous inspection schemes.
    ///
    /// Examples
    /// --------
    /// >>> from sona.control import Cusum
    /// >>> detector = Cusum(0.0, 1.0)
    /// >>> [detector.update(1.5) for _ in range(6)]
    /// [False, False, False, False, False, True]
    PyCusum, "Cusum", Cusum, {
    #[new]
    #[pyo3(signature = (mean, std, *, k=0.5, h=5.0))]
    fn new(mean: f64, std: f64, k: f64, h: f64) -> PyResult<Self> {
        Ok(Self {
            inner: Mutex::new(Cusum::new(mean, std, k, h).py()?),
        })
    }

    /// The larger of the two sums.
    #[getter]
    fn score(&self) -> f64 {
        self.inner.lock().score()
    }
}
);

detector!(
    /// Alarm on a change of the mean.
    ///
    /// With the running mean m including x: U = αU + (x − m − δ), L = αL + (x − m + δ); from `min_instances` on an alarm when
    /// U − min U (up) or max L − L (down) exceeds `threshold`; after it the test starts anew.
    ///
    /// Parameters
    /// ----------
    /// delta : float, default 0.005
    ///     A change that does not matter.
    /// threshold : float, default 50.0
    /// alpha : float, default 0.9999
    ///     Forgetting, in (0, 1].
    /// min_instances : int, default 30
    /// mode : {"both", "up", "down"}
    ///
    /// Raises
    /// ------
    /// ConfigError
    ///     If a setting is out of range.
    ///
    /// Notes
    /// -----
    /// O(1). Page 1954; Gama et al. 2014, A survey on concept drift adaptation.
    ///
    /// Examples
    /// --------
    /// >>> from sona.control import PageHinkley
    /// >>> detector = PageHinkley(threshold=5.0, min_instances=5)
    /// >>> [i for i in range(40) if detector.update(0.0 if i < 20 else 1.0)]
    /// [25]
    PyPageHinkley, "PageHinkley", PageHinkley, {
    #[new]
    #[pyo3(signature = (*, delta=0.005, threshold=50.0, alpha=0.9999, min_instances=30, mode="both"))]
    fn new(delta: f64, threshold: f64, alpha: f64, min_instances: i128, mode: &str) -> PyResult<Self> {
        let min_instances: u64 = whole("min_instances", min_instances)?;
        Ok(Self {
            inner: Mutex::new(PageHinkley::new(delta, threshold, alpha, min_instances, Direction::parse(mode).py()?).py()?),
        })
    }

    /// How far the sums have left their extremes.
    #[getter]
    fn score(&self) -> f64 {
        self.inner.lock().score()
    }
}
);

detector!(
    /// A window of the latest values that is cut where its two ends have different means; an alarm when it was cut.
    ///
    /// Parameters
    /// ----------
    /// delta : float, default 0.002
    ///     Confidence of a cut, in (0, 1).
    ///
    /// Raises
    /// ------
    /// ConfigError
    ///     If `delta` is out of range.
    ///
    /// Notes
    /// -----
    /// O(log n) memory; checked every 32 values. Bifet & Gavaldà 2007, Learning from time-changing data with adaptive windowing
    /// (ADWIN2).
    ///
    /// Examples
    /// --------
    /// >>> from sona.control import Adwin
    /// >>> detector = Adwin()
    /// >>> any(detector.update(0.0) for _ in range(500)), any(detector.update(1.0) for _ in range(100))
    /// (False, True)
    PyAdwin, "Adwin", Adwin, {
    #[new]
    #[pyo3(signature = (delta=0.002))]
    fn new(delta: f64) -> PyResult<Self> {
        Ok(Self {
            inner: Mutex::new(Adwin::new(delta).py()?),
        })
    }

    /// Values in the window.
    #[getter]
    fn width(&self) -> u64 {
        self.inner.lock().width()
    }

    /// Mean of the window; 0 while it is empty.
    #[getter]
    fn mean(&self) -> f64 {
        self.inner.lock().mean()
    }
}
);

detector!(
    /// Alarm when detectors agree: :class:`Ewma`, :class:`RobustZ`, and :class:`Cusum` around the mean of the first values.
    ///
    /// Parameters
    /// ----------
    /// window : int, default 100
    ///     Values that the robust score looks back, and that define the normal state of the cumulative sums (at least 30).
    /// agree : int, default 2
    ///     Detectors of the three that must have fired …
    /// within : int, default 5
    ///     … within the last so many values.
    /// cooldown : int, default 0
    ///     Values after an alarm that cannot raise another.
    ///
    /// Raises
    /// ------
    /// ConfigError
    ///     If a setting is out of range.
    ///
    /// Notes
    /// -----
    /// O(window) moves of memory, below a microsecond.
    ///
    /// Examples
    /// --------
    /// >>> from sona.control import AnomalyDetector
    /// >>> detector = AnomalyDetector(window=40)
    /// >>> any(detector.update(5.0 + 0.1 * (i % 3)) for i in range(100))
    /// False
    /// >>> detector.update(50.0)
    /// True
    PyAnomalyDetector, "AnomalyDetector", AnomalyDetector, {
    #[new]
    #[pyo3(signature = (*, window=100, agree=2, within=5, cooldown=0))]
    fn new(window: i128, agree: i128, within: i128, cooldown: i128) -> PyResult<Self> {
        let window: usize = whole("window", window)?;
        let agree: usize = whole("agree", agree)?;
        let within: u64 = whole("within", within)?;
        let cooldown: u64 = whole("cooldown", cooldown)?;
        Ok(Self {
            inner: Mutex::new(AnomalyDetector::new(Agreement { window, agree, within, cooldown }).py()?),
        })
    }

    /// The present score of each detector.
    #[getter]
    fn scores<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let scores = self.inner.lock().scores();
        let out = PyDict::new(py);
        for (name, score) in scores {
            out.set_item(name, score)?;
        }
        Ok(out)
    }
}
);

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyEwma>()?;
    m.add_class::<PyRobustZ>()?;
    m.add_class::<PyCusum>()?;
    m.add_class::<PyPageHinkley>()?;
    m.add_class::<PyAdwin>()?;
    m.add_class::<PyAnomalyDetector>()
}
