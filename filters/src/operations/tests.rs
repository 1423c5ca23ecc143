//! The operations, as a gateway asks for them.
