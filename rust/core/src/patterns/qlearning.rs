//! Tabular Q-learning over named states and actions (Watkins & Dayan 1992): which tool or agent next.
//!
//! The step size n^−p with p in (1/2, 1] is the polynomial rate of Even-Dar & Mansour (2003), under which Q converges to
//! the optimal values when every pair keeps being tried.

use crate::codec::{self, Kind};
use crate::error::{Error, Result, check_number};
use crate::metrics::Metrics;
use crate::store::atomic;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

const KIND: Kind = Kind {
    tag: *b"QLRN",
    version: 1,
};
/// Largest file that is read.
const MAX_FILE: u64 = 256 << 20;
/// Most pairs that are read.
const MAX_PAIRS: usize = 1 << 20;
/// Longest state or action.
const MAX_NAME: usize = 4096;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    q: f64,
    count: u64,
    last_update: f64,
}

/// Values of state–action pairs, learned from transitions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QLearning {
    gamma: f64,
    alpha_power: f64,
    states: BTreeMap<String, BTreeMap<String, Entry>>,
    updates: u64,
}

impl QLearning {
    /// An empty table: `gamma` in [0, 1) discounts the future, the n-th update of a pair has rate n^−`alpha_power`.
    pub fn new(gamma: f64, alpha_power: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&gamma) {
            return Err(Error::config("gamma", "a number in [0, 1)", gamma));
        }
        if !(alpha_power > 0.0 && alpha_power <= 1.0) {
            return Err(Error::config("alpha_power", "a number in (0, 1]", alpha_power));
        }
        Ok(Self {
            gamma,
            alpha_power,
            states: BTreeMap::new(),
            updates: 0,
        })
    }

    /// Discount of the future.
    #[must_use]
    pub fn gamma(&self) -> f64 {
        self.gamma
    }

    /// Exponent of the learning rate.
    #[must_use]
    pub fn alpha_power(&self) -> f64 {
        self.alpha_power
    }

    /// Learns from one transition at second `now` and returns the pair's new value: n ← n + 1,
    /// Q ← Q + n^−p (r + γ max Q(next, ·) − Q). The future of an unknown next state, or of none, is 0.
    pub fn update(
        &mut self,
        state: &str,
        action: &str,
        reward: f64,
        next_state: Option<&str>,
        now: f64,
    ) -> Result<f64> {
        for (name, text) in [("state", state), ("action", action)] {
            if text.len() > MAX_NAME {
                return Err(Error::value(
                    name,
                    format!("at most {MAX_NAME} bytes"),
                    text.len(),
                ));
            }
        }
        for (name, value) in [("reward", reward), ("now", now)] {
            check_number(name, value)?;
        }
        let future = next_state
            .and_then(|s| self.states.get(s))
            .and_then(|actions| actions.values().map(|e| e.q).max_by(f64::total_cmp))
            .unwrap_or(0.0);
        let target = reward + self.gamma * future;
        if !target.is_finite() {
            return Err(Error::value("reward", "a number whose return is finite", reward));
        }
        let actions = match self.states.get_mut(state) {
            Some(actions) => actions,
            None => self.states.entry(state.to_owned()).or_default(),
        };
        let entry = actions.entry(action.to_owned()).or_insert(Entry {
            q: 0.0,
            count: 0,
            last_update: now,
        });
        entry.count = entry.count.saturating_add(1);
        let rate = (entry.count as f64).powf(-self.alpha_power);
        // A convex combination: stays between the old value and the target.
        entry.q = (1.0 - rate) * entry.q + rate * target;
        entry.last_update = now;
        self.updates = self.updates.saturating_add(1);
        Ok(entry.q)
    }

    fn entry(&self, state: &str, action: &str) -> Option<&Entry> {
        self.states.get(state)?.get(action)
    }

    /// Value of a pair; 0 for an unknown one.
    #[must_use]
    pub fn q_value(&self, state: &str, action: &str) -> f64 {
        self.entry(state, action).map_or(0.0, |e| e.q)
    }

    /// Updates of a pair.
    #[must_use]
    pub fn count(&self, state: &str, action: &str) -> u64 {
        self.entry(state, action).map_or(0, |e| e.count)
    }

    /// The action of highest value among `actions`, or among those known in `state`. Ties go to the higher upper
    /// confidence bound, that is, to the less tried one, then to the first name.
    #[must_use]
    pub fn best_action(&self, state: &str, actions: Option<&[String]>) -> Option<String> {
        let known = self.states.get(state);
        let candidates: Vec<&str> = match actions {
            Some(names) => names.iter().map(String::as_str).collect(),
            None => known
                .into_iter()
                .flat_map(|a| a.keys().map(String::as_str))
                .collect(),
        };
        let total: f64 = known.map_or(0.0, |a| a.values().map(|e| e.count as f64).sum());
        let bonus = |action: &str| match self.count(state, action) {
            0 => f64::INFINITY,
            n => (2.0 * total.ln() / n as f64).sqrt(),
        };
        candidates
            .into_iter()
            .max_by(|a, b| {
                self.q_value(state, a)
                    .total_cmp(&self.q_value(state, b))
                    .then_with(|| bonus(a).total_cmp(&bonus(b)))
                    .then_with(|| b.cmp(a))
            })
            .map(str::to_owned)
    }

    /// Number of known pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.states.values().map(BTreeMap::len).sum()
    }

    /// No pair is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Writes `intelligence.json` at `path`, whole or not at all. A bar in a state would make its key ambiguous: it is
    /// written as `%7C`, and the entry names the state.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut patterns = Map::new();
        for (state, actions) in &self.states {
            for (action, e) in actions {
                let mut pair =
                    json!({"action": action, "q_value": e.q, "count": e.count, "last_update": e.last_update});
                let escaped = state.replace('%', "%25").replace('|', "%7C");
                if escaped != *state {
                    pair["state"] = json!(state);
                }
                patterns.insert(format!("{escaped}|{action}"), pair);
            }
        }
        let file = json!({"patterns": patterns, "memories": [], "trajectories": []});
        atomic::replace(path, |out| {
            let text =
                serde_json::to_vec_pretty(&file).map_err(|e| Error::corrupt("intelligence.json", e))?;
            out.write_all(&text).map_err(|e| Error::store("write", path, e))
        })
    }

    /// Reads the pairs of an `intelligence.json` into a table with these parameters.
    ///
    /// Takes keys `state|action`, and the older form with one action per state, whose key is the state alone (and whose
    /// count may be called `visits`). Missing counts are 1, missing times 0. Everything else in the file is left alone.
    pub fn load(path: &Path, gamma: f64, alpha_power: f64) -> Result<Self> {
        let mut text = Vec::new();
        let file = File::open(path).map_err(|e| Error::store("open", path, e))?;
        file.take(MAX_FILE + 1)
            .read_to_end(&mut text)
            .map_err(|e| Error::store("read", path, e))?;
        if text.len() as u64 > MAX_FILE {
            return Err(corrupt(format!("larger than {MAX_FILE} bytes")));
        }
        Self::from_json(&text, gamma, alpha_power)
    }

    fn from_json(text: &[u8], gamma: f64, alpha_power: f64) -> Result<Self> {
        let mut out = Self::new(gamma, alpha_power)?;
        let value: Value = serde_json::from_slice(text).map_err(corrupt)?;
        let Some(patterns) = value.get("patterns").and_then(Value::as_object) else {
            return Err(corrupt("no object \"patterns\""));
        };
        if patterns.len() > MAX_PAIRS {
            return Err(corrupt(format!(
                "{} pairs, at most {MAX_PAIRS} are read",
                patterns.len()
            )));
        }
        for (key, v) in patterns {
            let Some(action) = v.get("action").and_then(Value::as_str) else {
                return Err(corrupt(format!("{key:?} has no action")));
            };
            let state = v.get("state").and_then(Value::as_str).unwrap_or_else(|| {
                let prefix = key.strip_suffix(action).and_then(|s| s.strip_suffix('|'));
                prefix.unwrap_or(key)
            });
            if state.len() > MAX_NAME || action.len() > MAX_NAME {
                return Err(corrupt(format!("a name longer than {MAX_NAME} bytes")));
            }
            let finite = |v: &Value| v.as_f64().filter(|v| v.is_finite());
            let q = v.get("q_value").and_then(finite);
            let count = match v.get("count").or_else(|| v.get("visits")) {
                Some(c) => c.as_u64().filter(|c| *c <= 1 << 53),
                None => Some(1),
            };
            // Older files hold the time as text; it decides nothing.
            let last_update = match v.get("last_update") {
                None | Some(Value::String(_)) => Some(0.0),
                Some(v) => finite(v),
            };
            let (Some(q), Some(count), Some(last_update)) = (q, count, last_update) else {
                return Err(corrupt(format!(
                    "{key:?}: expected a number q_value, count and last_update"
                )));
            };
            let entry = Entry {
                q,
                count,
                last_update,
            };
            out.updates = out.updates.saturating_add(count);
            let actions = out.states.entry(state.to_owned()).or_default();
            if actions.insert(action.to_owned(), entry).is_some() {
                return Err(corrupt(format!("the pair ({state:?}, {action:?}) twice")));
            }
        }
        Ok(out)
    }

    /// Counts.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        vec![
            ("states", self.states.len().into()),
            ("pairs", self.len().into()),
            ("updates", self.updates.into()),
        ]
    }

    /// The whole state.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(KIND, self)
    }

    /// The state that [`QLearning::to_bytes`] wrote; anything else is refused.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let out: Self = codec::decode(KIND, bytes)?;
        Self::new(out.gamma, out.alpha_power).map_err(corrupt)?;
        let entries = out.states.values().flat_map(BTreeMap::values);
        if entries
            .into_iter()
            .all(|e| e.q.is_finite() && e.last_update.is_finite())
        {
            Ok(out)
        } else {
            Err(corrupt("a value that is not finite"))
        }
    }
}

fn corrupt(reason: impl ToString) -> Error {
    Error::corrupt("intelligence.json", reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> QLearning {
        QLearning::new(0.9, 0.7).unwrap()
    }

    #[test]
    fn ties_go_to_the_less_tried_then_to_the_first_name() {
        let mut q = table();
        assert_eq!(q.best_action("s", None), None);
        assert_eq!(
            q.best_action("s", Some(&["b".into(), "a".into()])).as_deref(),
            Some("a")
        );
        for action in ["a", "a", "b"] {
            q.update("s", action, 1.0, None, 0.0).unwrap();
        }
        assert_eq!(q.q_value("s", "a"), q.q_value("s", "b"));
        assert_eq!(q.best_action("s", None).as_deref(), Some("b"));
        q.update("s", "a", 2.0, None, 0.0).unwrap();
        assert_eq!(q.best_action("s", None).as_deref(), Some("a"));
        q.update("t", "x", -1.0, None, 0.0).unwrap();
        assert_eq!(
            q.best_action("t", Some(&["x".into(), "new".into()])).as_deref(),
            Some("new")
        );
    }

    #[test]
    fn file_and_bytes_survive_with_awkward_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("intelligence.json");
        let mut q = table();
        for (state, action) in [
            ("a|b", "c"),
            ("a", "b|c"),
            ("a%7Cb", "c"),
            ("", ""),
            ("é\n\"", "|"),
        ] {
            q.update(state, action, 0.25, Some("a"), 17.5).unwrap();
        }
        q.save(&path).unwrap();
        assert_eq!(QLearning::load(&path, 0.9, 0.7).unwrap(), q);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"memories\": []") && text.contains("\"trajectories\": []"));
        assert_eq!(QLearning::from_bytes(&q.to_bytes().unwrap()).unwrap(), q);
    }

    #[test]
    fn hostile_files_are_refused() {
        for text in [
            "",
            "[]",
            "{}",
            "{\"patterns\": []}",
            "{\"patterns\": {\"s\": 1}}",
            "{\"patterns\": {\"s\": {\"q_value\": 1}}}",
            "{\"patterns\": {\"s\": {\"action\": \"a\"}}}",
            "{\"patterns\": {\"s\": {\"action\": \"a\", \"q_value\": \"1\"}}}",
            "{\"patterns\": {\"s\": {\"action\": \"a\", \"q_value\": 1e999}}}",
            "{\"patterns\": {\"s\": {\"action\": \"a\", \"q_value\": 1, \"count\": -1}}}",
            "{\"patterns\": {\"s\": {\"action\": \"a\", \"q_value\": 1, \"last_update\": null}}}",
            "{\"patterns\": {\"s\": {\"action\": \"a\", \"q_value\": 1}, \"s|a\": {\"action\": \"a\", \"q_value\": 2}}}",
        ] {
            let got = QLearning::from_json(text.as_bytes(), 0.9, 0.7);
            assert!(matches!(got, Err(Error::Corrupt { .. })), "{text}");
        }
        let deep = format!("{{\"patterns\": {}", "[".repeat(100_000));
        assert!(QLearning::from_json(deep.as_bytes(), 0.9, 0.7).is_err());
    }

    #[test]
    fn bad_input_changes_nothing() {
        let mut q = table();
        assert!(q.update("s", "a", f64::NAN, None, 0.0).is_err());
        assert!(q.update(&"s".repeat(5000), "a", 1.0, None, 0.0).is_err());
        assert_eq!(q, table());
        assert!(QLearning::new(1.0, 0.7).is_err() && QLearning::new(0.9, 0.0).is_err());
        assert!(QLearning::new(f64::NAN, 0.7).is_err());
    }
}
