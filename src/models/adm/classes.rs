//! TEMPORARY
use crate::error::{Error, Result};
/// x
pub struct Classes(Vec<String>);
impl Classes {
    /// x
    pub fn new(n: Option<Vec<String>>, c: usize) -> Self {
        Classes(n.unwrap_or_else(|| (0..c).map(|i| i.to_string()).collect()))
    }
    /// x
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// x
    pub fn examples(&self) -> String {
        self.0.iter().take(3).cloned().collect::<Vec<_>>().join(", ")
    }
    /// x
    pub fn number(&self, t: &str) -> Result<usize> {
        t.parse().ok().or_else(|| self.0.iter().position(|n| n == t)).ok_or(Error::Request("no class".into()))
    }
}
