//! x
pub struct Path;
pub fn path() {}
