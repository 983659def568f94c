//! Names of settings, by number.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Most names that are kept apart.
const MOST: usize = 1024;
/// Longest name.
const LONGEST: usize = 1024;

/// Every setting that was ever named.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Settings(Vec<String>);

impl Settings {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn find(&self, name: &str) -> Option<u32> {
        self.0.iter().position(|n| n == name).map(|i| i as u32)
    }

    /// Errors if `number` names with these could not be taken in.
    pub(super) fn admit(&self, names: &[&str]) -> Result<()> {
        if let Some(name) = names.iter().find(|n| n.len() > LONGEST) {
            return Err(Error::value(
                "setting",
                format!("at most {LONGEST} bytes"),
                name.len(),
            ));
        }
        let mut new: Vec<&&str> = names.iter().filter(|n| self.find(n).is_none()).collect();
        new.sort_unstable();
        new.dedup();
        if self.0.len() + new.len() > MOST {
            return Err(Error::Capacity {
                name: "settings",
                limit: format!("at most {MOST} names"),
                got: (self.0.len() + new.len()).to_string(),
            });
        }
        Ok(())
    }

    /// The number of a name, a new one if need be. Ask [`Self::admit`] first.
    pub(super) fn intern(&mut self, name: &str) -> u32 {
        match self.find(name) {
            Some(i) => i,
            None => {
                self.0.push(name.to_owned());
                self.0.len() as u32 - 1
            }
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        let mut names: Vec<&String> = self.0.iter().collect();
        names.sort_unstable();
        names.dedup();
        if names.len() == self.0.len() && self.0.len() <= MOST && self.0.iter().all(|n| n.len() <= LONGEST) {
            Ok(())
        } else {
            Err(Error::corrupt("settings", "too many, too long or twice"))
        }
    }
}
