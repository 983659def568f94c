//! Named arrays as safetensors files: no code in the file, lengths checked before anything is read from them.
//!
//! Reference: the safetensors format (header length u64, JSON header, raw little-endian data).

use super::atomic;
use crate::error::{Error, Result};
use safetensors::tensor::{SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

pub use safetensors::Dtype;

/// An array as bytes: row-major, little-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Type of the elements.
    pub dtype: Dtype,
    /// Lengths of the axes.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Vec<u8>,
}

impl Tensor {
    /// Errors for a type that no numpy array has, and at the first NaN, infinity or impossible truth value.
    fn check(&self) -> Result<()> {
        let words = |n| self.data.chunks_exact(n).enumerate();
        let bad = match self.dtype {
            Dtype::F16 => words(2).find(|(_, b)| b[1] & 0x7c == 0x7c).map(|(i, b)| {
                (
                    i,
                    if b[0] == 0 && b[1] & 3 == 0 {
                        f32::INFINITY
                    } else {
                        f32::NAN
                    },
                )
            }),
            Dtype::F32 => words(4)
                .map(|(i, b)| (i, f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
                .find(|(_, v)| !v.is_finite()),
            Dtype::F64 => words(8)
                .map(|(i, b)| {
                    (
                        i,
                        f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
                    )
                })
                .find(|(_, v)| !v.is_finite())
                .map(|(i, v)| (i, v as f32)),
            Dtype::BOOL => {
                return match self.data.iter().find(|b| **b > 1) {
                    Some(b) => Err(Error::corrupt("tensors", format!("a truth value of {b}"))),
                    None => Ok(()),
                };
            }
            Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64 => None,
            Dtype::U8 | Dtype::U16 | Dtype::U32 | Dtype::U64 => None,
            other => {
                let expected = "bool, an integer type, F16, F32, F64, or BF16 to load";
                return Err(Error::value("dtype", expected, format!("{other:?}")));
            }
        };
        match bad {
            Some((index, value)) => Err(Error::NotFinite {
                name: "tensors",
                index,
                value,
            }),
            None => Ok(()),
        }
    }
}

/// Saves the tensors at `path`, replacing the file whole and durably.
pub fn save(path: impl AsRef<Path>, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let path = path.as_ref();
    let mut views = Vec::with_capacity(tensors.len());
    for (name, t) in tensors {
        if name == "__metadata__" {
            return Err(Error::value("name", "anything but the reserved name", name));
        }
        t.check()?;
        let view = TensorView::new(t.dtype, t.shape.clone(), &t.data)
            .map_err(|e| Error::shape("tensors", "data of the declared size", e.to_string()))?;
        views.push((name, view));
    }
    let bytes = safetensors::serialize(views, None).map_err(|e| Error::value("tensors", "a valid set", e))?;
    atomic::replace(path, |w| {
        w.write_all(&bytes).map_err(|e| Error::store("write", path, e))
    })
}

/// Loads a file that [`save`], or any other safetensors writer, wrote. BF16 comes widened to F32, which is exact.
pub fn load(path: impl AsRef<Path>) -> Result<BTreeMap<String, Tensor>> {
    let path = path.as_ref();
    let bytes = fs::read(path).map_err(|e| Error::store("read", path, e))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| Error::corrupt(format!("safetensors {}", path.display()), e))?;
    file.iter()
        .map(|(name, view)| {
            let tensor = match view.dtype() {
                Dtype::BF16 => Tensor {
                    dtype: Dtype::F32,
                    shape: view.shape().to_vec(),
                    data: view
                        .data()
                        .chunks_exact(2)
                        .flat_map(|b| [0, 0, b[0], b[1]])
                        .collect(),
                },
                dtype => Tensor {
                    dtype,
                    shape: view.shape().to_vec(),
                    data: view.data().to_vec(),
                },
            };
            tensor.check()?;
            Ok((name.to_owned(), tensor))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dtype: Dtype, shape: &[usize], data: &[u8]) -> Tensor {
        Tensor {
            dtype,
            shape: shape.to_vec(),
            data: data.to_vec(),
        }
    }

    #[test]
    fn round_trip_and_every_damage_is_an_error_or_other_data() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let all = BTreeMap::from([
            (
                "a".to_owned(),
                tensor(Dtype::F32, &[2, 1], &[0, 0, 128, 63, 0, 0, 0, 64]),
            ),
            ("b".to_owned(), tensor(Dtype::I64, &[], &7i64.to_le_bytes())),
            ("c".to_owned(), tensor(Dtype::U8, &[0, 3], &[])),
        ]);
        save(&path, &all).unwrap();
        assert_eq!(load(&path).unwrap(), all);
        let good = fs::read(&path).unwrap();
        for cut in 0..good.len() {
            fs::write(&path, &good[..cut]).unwrap();
            assert!(load(&path).is_err(), "cut at {cut}");
        }
        for bit in 0..good.len() * 8 {
            let mut b = good.clone();
            b[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &b).unwrap();
            if let Ok(other) = load(&path) {
                assert_ne!(other, all, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_header_that_claims_more_than_there_is_allocates_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let header = |json: &str, len: u64| [&len.to_le_bytes()[..], json.as_bytes()].concat();
        let huge = r#"{"a":{"dtype":"F32","shape":[4611686018427387904,2],"data_offsets":[0,8]}}"#;
        let lie = r#"{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}"#;
        for bytes in [
            header("{}", u64::MAX),
            header("{}", 1 << 40),
            header(huge, huge.len() as u64),
            header(lie, lie.len() as u64),
        ] {
            fs::write(&path, bytes).unwrap();
            assert!(matches!(load(&path), Err(Error::Corrupt { .. })));
        }
    }

    #[test]
    fn not_finite_and_unknown_types_are_refused_and_the_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let one = |t| BTreeMap::from([("a".to_owned(), t)]);
        let good = one(tensor(Dtype::F16, &[1], &[0, 60]));
        save(&path, &good).unwrap();
        for t in [
            tensor(Dtype::F16, &[2], &[0, 60, 0, 0x7c]),
            tensor(Dtype::F16, &[1], &[1, 0xfe]),
            tensor(Dtype::F32, &[1], &f32::NAN.to_le_bytes()),
            tensor(Dtype::F64, &[1], &f64::INFINITY.to_le_bytes()),
        ] {
            assert!(matches!(save(&path, &one(t)), Err(Error::NotFinite { .. })));
        }
        for t in [
            tensor(Dtype::BF16, &[1], &[0, 0]),
            tensor(Dtype::F32, &[2], &[0; 4]),
            tensor(Dtype::BOOL, &[1], &[2]),
        ] {
            assert!(save(&path, &one(t)).is_err());
        }
        assert_eq!(load(&path).unwrap(), good);
    }
}
