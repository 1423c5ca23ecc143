//! Documents, whole and broken.
