//! The same object out of plainly written JSON. `None`: it is for serde, and what was read is half full.

use super::{Count, Lenient, WireCreation, WireDetails, WireUsage};
use crate::protocol::scan::{Scan, once};

impl WireUsage {
    /// Reads the object that follows into this.
    pub(crate) fn plain(&mut self, scan: &mut Scan<'_>) -> Option<()> {
        let mut seen = 0;
        scan.object(|scan, name| {
            let (field, count) = match name {
                b"prompt_tokens" => (0, &mut self.prompt_tokens),
                b"completion_tokens" => (1, &mut self.completion_tokens),
                b"total_tokens" => (2, &mut self.total_tokens),
                b"prompt_tokens_details" => {
                    once(&mut seen, 3)?;
                    return lenient(&mut self.prompt_tokens_details, scan, WireDetails::plain);
                }
                b"input_tokens" => (4, &mut self.input_tokens),
                b"output_tokens" => (5, &mut self.output_tokens),
                b"input_tokens_details" => {
                    once(&mut seen, 6)?;
                    return lenient(&mut self.input_tokens_details, scan, WireDetails::plain);
                }
                b"cache_read_input_tokens" => (7, &mut self.cache_read_input_tokens),
                b"cache_creation_input_tokens" => (8, &mut self.cache_creation_input_tokens),
                b"cache_creation" => {
                    once(&mut seen, 9)?;
                    return lenient(&mut self.cache_creation, scan, WireCreation::plain);
                }
                b"prompt_cache_hit_tokens" => (10, &mut self.prompt_cache_hit_tokens),
                b"cached_tokens" => (11, &mut self.cached_tokens),
                // They are rare, and reports themselves.
                b"iterations" => return None,
                _ => return scan.skip(),
            };
            once(&mut seen, field)?;
            *count = Count(scan.count()?);
            Some(())
        })
    }
}

impl WireDetails {
    fn plain(&mut self, scan: &mut Scan<'_>) -> Option<()> {
        let mut seen = 0;
        scan.object(|scan, name| {
            let (field, count) = match name {
                b"cached_tokens" => (0, &mut self.cached_tokens),
                b"cache_write_tokens" => (1, &mut self.cache_write_tokens),
                b"cache_creation_tokens" => (2, &mut self.cache_creation_tokens),
                b"cache_creation_token_details" => {
                    once(&mut seen, 3)?;
                    let creation = &mut self.cache_creation_token_details;
                    return lenient(creation, scan, WireCreation::plain);
                }
                _ => return scan.skip(),
            };
            once(&mut seen, field)?;
            *count = Count(scan.count()?);
            Some(())
        })
    }
}

impl WireCreation {
    fn plain(&mut self, scan: &mut Scan<'_>) -> Option<()> {
        let mut seen = 0;
        scan.object(|scan, name| {
            let (field, count) = match name {
                b"ephemeral_5m_input_tokens" => (0, &mut self.ephemeral_5m_input_tokens),
                b"ephemeral_1h_input_tokens" => (1, &mut self.ephemeral_1h_input_tokens),
                _ => return scan.skip(),
            };
            once(&mut seen, field)?;
            *count = Count(scan.count()?);
            Some(())
        })
    }
}

/// Reads an object, or null, which is as good as none.
#[inline]
pub(in crate::meter) fn lenient<'a, T: Default>(
    into: &mut Lenient<T>,
    scan: &mut Scan<'a>,
    read: impl FnOnce(&mut T, &mut Scan<'a>) -> Option<()>,
) -> Option<()> {
    match scan.peek()? {
        b'{' => read(into.0.insert(T::default()), scan),
        b'n' => scan.skip(),
        _ => None,
    }
}
