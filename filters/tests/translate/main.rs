//! Translation from outside: golden pairs, and what holds for every conversation.

// `cfg(test)` is always on here; saying so lets clippy treat helpers as the tests they serve.
#[cfg(test)]
mod golden;
#[cfg(test)]
mod conversations;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod packets;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod said;
