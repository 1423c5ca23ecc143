//! `log_level` and `log_format`.

use std::str::FromStr;

/// What is logged: this and worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything, for developers.
    Trace,
    /// Python's 10.
    Debug,
    /// Python's 20: one line per request.
    #[default]
    Info,
    /// Python's 30.
    Warn,
    /// Python's 40 and 50.
    Error,
}

impl LogLevel {
    /// As `tracing` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

impl FromStr for LogLevel {
    type Err = String;

    /// Names in any case, and the numbers that the reference takes.
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text.trim().to_ascii_lowercase().as_str() {
            "trace" => Self::Trace,
            "10" | "debug" => Self::Debug,
            "20" | "info" => Self::Info,
            "30" | "warn" | "warning" => Self::Warn,
            "40" | "50" | "error" | "critical" => Self::Error,
            _ => {
                return Err(
                    "must be one of trace, debug, info, warn, error or 10, 20, 30, 40, 50".into()
                );
            }
        })
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl LogFormat {
    /// As the flag spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text.trim().to_ascii_lowercase().as_str() {
            "auto" => Self::Auto,
            "text" => Self::Text,
            "json" => Self::Json,
            _ => return Err("must be one of auto, text, json".into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_names_or_python_numbers() {
        assert_eq!("30".parse(), Ok(LogLevel::Warn));
        assert_eq!("WARNING".parse(), Ok(LogLevel::Warn));
        assert_eq!("50".parse(), Ok(LogLevel::Error));
        assert!("25".parse::<LogLevel>().is_err());
    }
}
