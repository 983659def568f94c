//! Preference pairs as JSON lines, the form that preference-tuning tools read.

use super::atomic;
use crate::error::{Error, Result};
use serde::Serialize;
use std::path::Path;

/// For this prompt one answer was better than another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Preference {
    /// What was asked.
    pub prompt: String,
    /// The better answer.
    pub chosen: String,
    /// The worse answer.
    pub rejected: String,
    /// How much the pair counts, finite and not negative.
    pub weight: f64,
}

/// Writes one JSON object a line to `path` and returns how many. The file is replaced whole, or left alone on any error.
pub fn export(path: impl AsRef<Path>, rows: impl IntoIterator<Item = Result<Preference>>) -> Result<u64> {
    let path = path.as_ref();
    atomic::replace(path, |w| {
        let mut written = 0;
        for row in rows {
            let row = row?;
            if row.chosen == row.rejected {
                let got = format!("the same text twice in row {written}");
                return Err(Error::value("rejected", "a text other than `chosen`", got));
            }
            if !(row.weight.is_finite() && row.weight >= 0.0) {
                let got = format!("{} in row {written}", row.weight);
                return Err(Error::value("weight", "a finite number >= 0", got));
            }
            serde_json::to_writer(&mut *w, &row)
                .map_err(std::io::Error::from)
                .and_then(|()| w.write_all(b"\n"))
                .map_err(|e| Error::store("write", path, e))?;
            written += 1;
        }
        Ok(written)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_json_and_a_bad_row_leaves_the_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pairs.jsonl");
        let row = |rejected: &str, weight| {
            Ok(Preference {
                prompt: "wie\n\"geht\"\u{2028}es?".into(),
                chosen: "gut 🙂".into(),
                rejected: rejected.into(),
                weight,
            })
        };
        assert_eq!(export(&path, [row("nein", 0.5), row("", 2.0)]).unwrap(), 2);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["prompt"], "wie\n\"geht\"\u{2028}es?");
        assert_eq!(lines[0]["weight"], 0.5);
        for bad in [
            row("gut 🙂", 1.0),
            row("x", f64::NAN),
            row("x", -1.0),
            Err(Error::Learning("stop".into())),
        ] {
            assert!(export(&path, [row("nein", 1.0), bad]).is_err());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(export(&path, []).unwrap(), 0);
    }
}
