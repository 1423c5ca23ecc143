//! The same walk over a prompt that is plainly written.

use super::{Content, PART_CHARS, Place, Shape, Step, is_of_media};
use crate::protocol::scan::Scan;

/// Deeper nesting is for serde, which knows where it ends.
const MAX_DEPTH: u32 = 32;

impl<'a> Content<'a> {
    /// Reads the value that follows, in valid UTF-8, into this. `None`: it is for serde, and this is half full.
    pub(in crate::protocol) fn plain(&mut self, scan: &mut Scan<'a>) -> Option<()> {
        self.shape = self.value(scan, Place::Top, 0)?;
        Some(())
    }

    fn value(&mut self, scan: &mut Scan<'a>, place: Place, depth: u32) -> Option<Shape> {
        match scan.peek()? {
            b'"' => {
                self.chars += scan.chars()?;
                Some(Shape::Text)
            }
            b'{' if depth < MAX_DEPTH => self.object(scan, place, depth + 1),
            b'[' if depth < MAX_DEPTH => self.list(scan, place, depth + 1),
            b'{' | b'[' => None,
            b'n' => scan.skip().map(|()| Shape::Null),
            b't' | b'f' => scan.skip().map(|()| Shape::Other),
            _ => scan.number().map(|()| Shape::Other),
        }
    }

    fn object(&mut self, scan: &mut Scan<'a>, place: Place, depth: u32) -> Option<Shape> {
        let before = self.chars;
        // Of a source, text counts; anything else in it is bytes, or an address of some.
        let (mut is_media_source, mut has_role) = (place == Place::Source, false);
        scan.object(|scan, name| {
            match Step::at(place, name) {
                Step::Walk(below) => {
                    self.value(scan, place.below(below), depth)?;
                }
                Step::Role => {
                    has_role = true;
                    scan.skip()?;
                }
                Step::Pass => scan.skip()?,
                Step::Media => {
                    scan.skip()?;
                    self.has_media = true;
                    self.chars += PART_CHARS;
                }
                Step::Source => {
                    self.has_media = true;
                    self.value(scan, place.below(Place::Source), depth)?;
                }
                Step::Kind => is_media_source = is_of_media(scan.raw()?),
                Step::Passthrough => self.passthrough.push(scan.raw()?),
            }
            Some(())
        })?;
        if is_media_source {
            self.chars = before + PART_CHARS;
        }
        if place == Place::Item && !has_role {
            self.lacks_role();
        }
        Some(Shape::Object)
    }

    fn list(&mut self, scan: &mut Scan<'a>, place: Place, depth: u32) -> Option<Shape> {
        let items = place.of_items();
        let mut count = 0;
        scan.list(|scan| {
            let shape = self.value(scan, place.below(items), depth)?;
            if items == Place::Item {
                self.note_item(count, shape);
            }
            count += 1;
            Some(())
        })?;
        Some(Shape::List(count))
    }
}
