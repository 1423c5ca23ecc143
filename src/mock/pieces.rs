//! Sends a body that is neither JSON nor events of a generation: sound, text, events of its own, in pieces.

use std::io::{self, Write as _};

use super::answer::put;
use super::emit::{Framing, Next, Outlet};
use super::script::{Fault, Script};

/// Unpaced pieces are written when so many bytes wait.
const FLUSH_BYTES: usize = 64 * 1024;

impl Outlet<'_> {
    /// Sends `count` pieces the way the script asks for.
    pub(super) async fn pieces(
        &mut self,
        script: &Script<'_>,
        kind: &str,
        count: u32,
        piece: impl Fn(u32) -> Vec<u8>,
    ) -> io::Result<Next> {
        let fault = script.fault;
        let chunked = self.modern && fault != Some(Fault::CloseDelimited);
        self.head(200, kind, "", if chunked { Framing::Chunked } else { Framing::UntilClose });
        if fault == Some(Fault::HeaderThenSilent) {
            return self.hold().await;
        }
        self.pause(script.first_delay).await?;
        let breaks = match fault {
            Some(Fault::Cut(after) | Fault::Reset(after) | Fault::Stall(after)) => {
                Some(after.min(count))
            }
            _ => None,
        };
        for index in 0..=count {
            if breaks == Some(index) {
                return self.break_off(fault).await;
            }
            if index == count {
                break;
            }
            if index > 0 {
                self.pause(script.interval).await?;
            }
            let piece = piece(index);
            if chunked && !piece.is_empty() {
                write!(self.out, "{:x}\r\n", piece.len())?;
                self.out.extend_from_slice(&piece);
                put(self.out, &["\r\n"]);
            } else {
                self.out.extend_from_slice(&piece);
            }
            if self.out.len() >= FLUSH_BYTES {
                self.flush().await?;
            }
        }
        if chunked {
            put(self.out, &["0\r\n\r\n"]);
        }
        self.flush().await?;
        Ok(self.next())
    }
}
