//! Adapters as Hugging Face PEFT directories: `adapter_model.safetensors` and `adapter_config.json`.

use crate::error::{Error, Result, check_dim, check_finite};
use crate::store::atomic;
use crate::store::tensors::{self, Dtype, Tensor};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

const PREFIX: &str = "base_model.model.";
const WEIGHTS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";
/// Longest configuration that is read; real ones have a few kilobytes.
const MAX_CONFIG: u64 = 1 << 20;

/// One module's factors.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftFactors {
    /// Rank r.
    pub rank: usize,
    /// Inputs of the module.
    pub inputs: usize,
    /// Outputs of the module.
    pub outputs: usize,
    /// A `(r, inputs)`, row-major.
    pub a: Vec<f32>,
    /// B `(outputs, r)`, row-major.
    pub b: Vec<f32>,
}

impl PeftFactors {
    fn check(&self) -> Result<()> {
        check_dim("A", self.rank * self.inputs, self.a.len())?;
        check_dim("B", self.rank * self.outputs, self.b.len())?;
        check_finite("A", &self.a)?;
        check_finite("B", &self.b)
    }
}

fn tensor(shape: [usize; 2], values: &[f32]) -> Tensor {
    Tensor {
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// Writes both files into the directory `path`, creating it; each is replaced whole, the weights first.
pub fn export(
    path: &Path,
    factors: &BTreeMap<String, PeftFactors>,
    alpha: f64,
    use_rslora: bool,
    target_modules: Option<&[String]>,
) -> Result<()> {
    let Some(rank) = factors.values().next().map(|f| f.rank) else {
        return Err(Error::value("factors", "at least one module", 0));
    };
    if !alpha.is_finite() {
        return Err(Error::value("alpha", "a finite number", alpha));
    }
    let mut all = BTreeMap::new();
    for (module, f) in factors {
        f.check()?;
        if f.rank != rank || rank == 0 {
            return Err(Error::value(
                "factors",
                format!("one rank for all modules ({rank})"),
                format!("{} for {module:?}", f.rank),
            ));
        }
        if module.is_empty() {
            return Err(Error::value("factors", "a module name", "\"\""));
        }
        let key = |part: &str| format!("{PREFIX}{module}.{part}.weight");
        all.insert(key("lora_A"), tensor([rank, f.inputs], &f.a));
        all.insert(key("lora_B"), tensor([f.outputs, rank], &f.b));
    }
    let named: Vec<&str> = match target_modules {
        Some(t) => t.iter().map(String::as_str).collect(),
        None => factors.keys().map(String::as_str).collect(),
    };
    let config = json!({
        "peft_type": "LORA",
        "task_type": null,
        "base_model_name_or_path": null,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": named,
        "use_rslora": use_rslora,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
    });
    fs::create_dir_all(path).map_err(|e| Error::store("create", path, e))?;
    tensors::save(path.join(WEIGHTS), &all)?;
    let text = serde_json::to_string_pretty(&config).map_err(|e| Error::corrupt(CONFIG, e))?;
    let file = path.join(CONFIG);
    atomic::replace(&file, |w| {
        w.write_all(text.as_bytes())
            .map_err(|e| Error::store("write", &file, e))
    })
}

fn read_config(path: &Path) -> Result<Value> {
    let file = path.join(CONFIG);
    let open = |e| Error::store("read", &file, e);
    let mut text = String::new();
    fs::File::open(&file)
        .map_err(open)?
        .take(MAX_CONFIG + 1)
        .read_to_string(&mut text)
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::InvalidData => Error::corrupt(CONFIG, "not UTF-8"),
            _ => open(e),
        })?;
    if text.len() as u64 > MAX_CONFIG {
        return Err(Error::corrupt(CONFIG, "longer than a megabyte"));
    }
    let config: Value = serde_json::from_str(&text).map_err(|e| Error::corrupt(CONFIG, e))?;
    match config.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => Ok(config),
        other => Err(Error::corrupt(
            CONFIG,
            format!("peft_type is {other:?}, not \"LORA\""),
        )),
    }
}

/// Half precision to single; exact.
fn widen(half: u16) -> f32 {
    let sign = if half & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(half >> 10 & 31), f32::from(half & 1023));
    sign * if exponent == 0 {
        fraction * 2f32.powi(-24)
    } else {
        (1024.0 + fraction) * 2f32.powi(exponent - 25)
    }
}

fn values(key: &str, t: &Tensor) -> Result<(usize, usize, Vec<f32>)> {
    let [rows, cols] = *t.shape.as_slice() else {
        return Err(Error::corrupt(
            key,
            format!("has shape {:?}, not two axes", t.shape),
        ));
    };
    let v = match t.dtype {
        Dtype::F32 => t
            .data
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        Dtype::F16 => t
            .data
            .chunks_exact(2)
            .map(|b| widen(u16::from_le_bytes([b[0], b[1]])))
            .collect(),
        other => return Err(Error::corrupt(key, format!("has type {other:?}"))),
    };
    Ok((rows, cols, v))
}

/// Reads a directory that [`export`] or PEFT wrote; returns the factors by module and the configuration.
pub fn load(path: &Path) -> Result<(BTreeMap<String, PeftFactors>, Value)> {
    let config = read_config(path)?;
    let file = tensors::load(path.join(WEIGHTS))?;
    let (mut a, mut b) = (BTreeMap::new(), BTreeMap::new());
    for (key, t) in &file {
        let name = key.strip_prefix(PREFIX).unwrap_or(key);
        if let Some(module) = name.strip_suffix(".lora_A.weight") {
            a.insert(module.to_owned(), values(key, t)?);
        } else if let Some(module) = name.strip_suffix(".lora_B.weight") {
            b.insert(module.to_owned(), values(key, t)?);
        } else {
            return Err(Error::corrupt(WEIGHTS, format!("unexpected tensor {key:?}")));
        }
    }
    let mut out = BTreeMap::new();
    for (module, (rank, inputs, a)) in a {
        let Some((outputs, columns, b)) = b.remove(&module) else {
            return Err(Error::corrupt(WEIGHTS, format!("{module:?} has no lora_B")));
        };
        if columns != rank || rank == 0 {
            return Err(Error::corrupt(
                WEIGHTS,
                format!("{module:?} has A of {rank} rows and B of {columns} columns"),
            ));
        }
        let f = PeftFactors {
            rank,
            inputs,
            outputs,
            a,
            b,
        };
        out.insert(module, f);
    }
    match b.keys().next() {
        Some(module) => Err(Error::corrupt(WEIGHTS, format!("{module:?} has no lora_A"))),
        None => Ok((out, config)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(rank: usize) -> BTreeMap<String, PeftFactors> {
        let f = PeftFactors {
            rank,
            inputs: 3,
            outputs: 2,
            a: (0..rank * 3).map(|i| i as f32).collect(),
            b: (0..rank * 2).map(|i| -(i as f32)).collect(),
        };
        BTreeMap::from([("proj".to_owned(), f)])
    }

    #[test]
    fn round_trip() {
        let dir = tempfile::tempdir().unwrap();
        export(dir.path(), &one(2), 8.0, true, None).unwrap();
        let (back, config) = load(dir.path()).unwrap();
        assert_eq!(back, one(2));
        assert_eq!(config["lora_alpha"], 8.0);
        assert_eq!(config["use_rslora"], true);
        assert_eq!(config["target_modules"], json!(["proj"]));
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, [CONFIG, WEIGHTS]);
    }

    #[test]
    fn half_precision_widens_exactly() {
        for (bits, want) in [
            (0x3c00u16, 1.0f32),
            (0xc000, -2.0),
            (0x0001, 5.960_464_5e-8),
            (0x7bff, 65504.0),
            (0x0000, 0.0),
            (0x3555, 0.333_251_95),
        ] {
            assert_eq!(widen(bits), want, "{bits:#x}");
        }
    }

    #[test]
    fn hostile_directories_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(load(dir.path()), Err(Error::Store { .. })));
        export(dir.path(), &one(2), 8.0, false, None).unwrap();
        let weights = fs::read(dir.path().join(WEIGHTS)).unwrap();
        let put = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
        let good = fs::read(dir.path().join(CONFIG)).unwrap();
        for bad in [
            &b"{"[..],
            b"[1]",
            b"{\"peft_type\": \"IA3\"}",
            &[0xff; 9],
            &vec![b' '; (MAX_CONFIG + 2) as usize],
            "[".repeat(100_000).as_bytes(),
        ] {
            put(CONFIG, bad);
            assert!(matches!(load(dir.path()), Err(Error::Corrupt { .. })));
        }
        put(CONFIG, &good);
        for cut in 0..weights.len() {
            put(WEIGHTS, &weights[..cut]);
            assert!(load(dir.path()).is_err(), "cut {cut}");
        }
        // Every bit of the header: an error or the same tensors under other names, never a panic.
        for bit in 0..64 * 8 {
            let mut w = weights.clone();
            w[bit / 8] ^= 1 << (bit % 8);
            put(WEIGHTS, &w);
            let _ = load(dir.path());
        }
        for (key, shape) in [
            ("base_model.model.proj.lora_A.weight", [2, 3]),
            ("base_model.model.proj.magnitude", [2, 3]),
        ] {
            let t = BTreeMap::from([(key.to_owned(), tensor(shape, &[1.0; 6]))]);
            tensors::save(dir.path().join(WEIGHTS), &t).unwrap();
            assert!(matches!(load(dir.path()), Err(Error::Corrupt { .. })));
        }
        assert!(export(dir.path(), &BTreeMap::new(), 8.0, false, None).is_err());
        assert!(export(dir.path(), &one(2), f64::NAN, false, None).is_err());
    }
}
