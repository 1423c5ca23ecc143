//! What is said of a panic: where it was, and never of what. A message is made of whatever was at hand, a caller's text or a
//! key; with the place and the source a programmer knows as much.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::Write as _;

/// Messages of the standard library that hold nothing but numbers begin so.
const NUMBERS: [&str; 4] = [
    "index out of bounds: the len is ",
    "range end index ",
    "range start index ",
    "slice index starts at ",
];
const WITHHELD: &str = "(its message is not shown: it may hold a credential or a caller's text)";

/// From now on every panic of the process is said so, on standard error, past the log: that may be what panicked.
pub fn install() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let mut text =
            format!("thread '{name}' panicked at {place}: {}\n", message(panic.payload()));
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            // Names of functions and places, no values.
            text += &format!("{trace}\n");
        }
        // Without standard error there is nobody to tell.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }));
}

/// What stands in the source is shown; what was made while it ran is not.
fn message(payload: &(dyn Any + Send)) -> &str {
    if let Some(literal) = payload.downcast_ref::<&'static str>() {
        return literal;
    }
    let made = payload.downcast_ref::<String>().map_or("", String::as_str);
    if NUMBERS.iter().any(|begin| made.starts_with(begin)) { made } else { WITHHELD }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    fn said(fails: fn()) -> String {
        message(&*catch_unwind(fails).unwrap_err()).to_owned()
    }

    #[test]
    fn only_what_stands_in_the_source_is_shown() {
        fn secret() -> String {
            ["sk", "secret"].join("-")
        }
        fn nothing() -> Option<()> {
            None
        }
        fn failure() -> Result<(), String> {
            Err(secret())
        }
        assert_eq!(said(|| panic!("a literal")), "a literal");
        assert_eq!(said(|| nothing().unwrap()), "called `Option::unwrap()` on a `None` value");
        // The library makes one of it at run time, and nobody can tell.
        assert_eq!(said(|| nothing().expect("a reason")), WITHHELD);
        assert_eq!(said(|| panic!("with {}", secret())), WITHHELD);
        assert_eq!(said(|| failure().expect("a reason")), WITHHELD);
        // Such a message shows the text.
        assert_eq!(said(|| drop(format!("\u{e9}{}", secret())[1..].to_owned())), WITHHELD);
        let index = said(|| assert_ne!(secret().as_bytes()[99], 0));
        assert!(index.contains("the index is 99"), "{index}");
        assert_eq!(said(|| std::panic::panic_any(5)), WITHHELD);
    }
}
