//! shim
use crate::rejection::Rejection;
/// shim
pub fn wants_router(_: Option<&str>) -> Result<bool, Rejection> {
    Ok(true)
}
