//! `to_bytes`, `from_bytes` and pickling, the same for every class that holds a state of the core.

use sona_core::Result;

/// A class whose whole state is bytes of the core's codec.
pub(crate) trait State: Sized {
    fn encode(&self) -> Result<Vec<u8>>;
    fn decode(data: &[u8]) -> Result<Self>;
}

/// Gives a `State` its three methods. The codec works without the lock of the interpreter.
macro_rules! state_methods {
    ($class:ident) => {
        #[pyo3::pymethods]
        impl $class {
            /// The whole state, checked and versioned.
            fn to_bytes<'py>(
                &self,
                py: pyo3::Python<'py>,
            ) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::types::PyBytes>> {
                let bytes = $crate::arrays::detached(py, || $crate::state::State::encode(self))?;
                Ok(pyo3::types::PyBytes::new(py, &bytes))
            }

            /// Read back what ``to_bytes`` wrote; damaged or foreign bytes raise ``CorruptStateError``.
            #[classmethod]
            fn from_bytes(cls: &pyo3::Bound<'_, pyo3::types::PyType>, data: &[u8]) -> pyo3::PyResult<Self> {
                $crate::arrays::detached(pyo3::Bound::py(cls), || $crate::state::State::decode(data))
            }

            fn __reduce__<'py>(
                slf: &pyo3::Bound<'py, Self>,
            ) -> pyo3::PyResult<(
                pyo3::Bound<'py, pyo3::PyAny>,
                (pyo3::Bound<'py, pyo3::types::PyBytes>,),
            )> {
                use pyo3::types::PyAnyMethods;
                let bytes = slf.get().to_bytes(slf.py())?;
                Ok((slf.get_type().getattr("from_bytes")?, (bytes,)))
            }
        }
    };
}
pub(crate) use state_methods;
