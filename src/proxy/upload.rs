//! A caller's form with a recording, on its way to a provider.
//!
//! When everything that the gates ask for stands before the file, nobody waits for the file: the call passes the gates
//! when it begins, and each piece is sent on as it comes. It is written to disk beside that, because another attempt
//! gets the same bytes. A form that has its model, or who pays, behind the file is received whole first, as clients write
//! them too.
//!
//! What comes behind the file may not change what was decided before it. No provider has the end of a form before all of
//! it is here and was found good, so that one that is not has cost nobody anything.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use otari_filters::control::Caller;
use otari_filters::operations::{self, Content, Frame};
use otari_filters::rejection::{Code, Rejection};
use pingora_proxy::Session;

use crate::app::App;
use crate::proxy::RequestContext;
use crate::proxy::call::Stop;
use crate::proxy::form::{Bounds, Form, Part};
use crate::proxy::spool::Spool;

/// The longest recording, as the reference gateway and OpenAI have it.
const MAX_AUDIO_BYTES: u64 = 25 << 20;
/// What a form may have beside its recording: boundaries, heads of its parts, fields.
const MAX_BESIDE: u64 = 1 << 20;
/// The longest value of a field.
const MAX_FIELD: usize = 256 << 10;
/// Folder of recordings on their way, below that of the journal.
const SPOOL: &str = "spool";

/// See above.
pub(super) struct Upload {
    /// Its parts, as far as they are here.
    form: operations::Form,
    /// How long the caller's boundary is.
    boundary_len: usize,
    /// Bytes of the file that have come.
    passed: u64,
    folder: PathBuf,
    /// They, on disk; made for the first of them.
    spool: Option<Spool>,
    /// The disk did not take them all.
    is_lost: bool,
    /// `None`: all of it is here.
    coming: Option<Coming>,
}

/// What has not come yet.
struct Coming {
    parser: Form,
    at: At,
    /// Bytes of the caller's body behind the head of the file, where that can be known.
    behind_head: Option<u64>,
    /// What was decided before the file came.
    begun: Option<Begun>,
}

/// Where in the form it is.
enum At {
    Between,
    /// In a field.
    Text(Part),
    File,
}

/// What the gates were asked with.
struct Begun {
    app: Arc<App>,
    caller: Caller,
    model: String,
    user: Option<String>,
}

/// A step further.
pub(super) enum Came {
    /// The head of the file; its bytes are next.
    Head,
    /// A piece of the file: [`Upload::keep`] it.
    Piece(Bytes),
    /// The end of the form.
    End,
}

impl Upload {
    /// Takes in a form as far as it must be here before the gates: up to the file, or to its end. What is no form has no
    /// fields: that is said then. With it, what it asks.
    ///
    /// # Errors
    /// When it is no form, or not one of these, is too large or too slow, cannot be kept, or the caller is gone.
    pub(super) async fn receive(
        app: &Arc<App>,
        s: &mut Session,
        ctx: &RequestContext,
    ) -> Result<(Box<Self>, operations::Asked), Stop> {
        let limits = app.live().limits.clone();
        let bounds = Bounds {
            max_bytes: MAX_AUDIO_BYTES + MAX_BESIDE,
            silence: limits.request_body_timeout,
            pace: limits.request_body_min_bytes_per_s,
            deadline: ctx.started + limits.request_timeout,
        };
        let parser = Form::open(s, bounds).await.map_err(too_long)?;
        let mut upload = Box::new(Self {
            form: operations::Form::default(),
            boundary_len: parser.as_ref().map_or(0, Form::boundary_len),
            passed: 0,
            folder: app.config.journal_dir.join(SPOOL),
            spool: None,
            is_lost: false,
            coming: parser.map(|parser| Coming {
                parser,
                at: At::Between,
                behind_head: None,
                begun: None,
            }),
        });
        loop {
            match upload.next(s).await? {
                Came::Head => {
                    if let Some(asked) = upload.begin(app, ctx) {
                        return Ok((upload, asked));
                    }
                }
                Came::Piece(piece) => upload.keep(piece).await.map_err(no_disk)?,
                Came::End => break,
            }
        }
        let asked = upload.form.read()?;
        Ok((upload, asked))
    }

    /// What it asks, when that can be told before the file has come.
    fn begin(&mut self, app: &Arc<App>, ctx: &RequestContext) -> Option<operations::Asked> {
        // Faults are listed when all of them are here.
        let asked = self.form.read().ok()?;
        let caller = ctx.caller.clone()?;
        // The operator says in the form who pays.
        if matches!(caller, Caller::Master) && asked.user.is_none() {
            return None;
        }
        let (model, user) = (asked.model.clone(), asked.user.clone());
        self.coming.as_mut()?.begun = Some(Begun { app: app.clone(), caller, model, user });
        Some(asked)
    }

    /// The next step of what comes. It may be given up and taken again.
    ///
    /// # Errors
    /// As for [`Self::receive`]; and when what stands behind the file is not what was decided with.
    pub(super) async fn next(&mut self, s: &mut Session) -> Result<Came, Stop> {
        loop {
            let Some(coming) = &mut self.coming else { return Ok(Came::End) };
            match &coming.at {
                At::File => match coming.parser.chunk(s).await.map_err(too_long)? {
                    None => coming.at = At::Between,
                    Some(piece) if piece.is_empty() => {}
                    Some(piece) if self.passed + piece.len() as u64 > MAX_AUDIO_BYTES => {
                        return Err(too_large().into());
                    }
                    Some(piece) => return Ok(Came::Piece(piece)),
                },
                At::Text(_) => {
                    let text = coming.parser.text(s, MAX_FIELD).await.map_err(too_long)?;
                    if let At::Text(part) = std::mem::replace(&mut coming.at, At::Between) {
                        self.form.push(taken(part, Content::Text(text.into())))?;
                    }
                }
                At::Between => match coming.parser.next(s).await.map_err(too_long)? {
                    Some(mut part) => match part.filename.take() {
                        Some(name) => {
                            self.form.push(taken(part, Content::File(name)))?;
                            coming.behind_head = coming.parser.behind_head();
                            coming.at = At::File;
                            return Ok(Came::Head);
                        }
                        None => coming.at = At::Text(part),
                    },
                    None => {
                        let begun = coming.begun.take();
                        self.coming = None;
                        begun.map_or(Ok(()), |begun| begun.holds(&self.form))?;
                        return Ok(Came::End);
                    }
                },
            }
        }
    }

    /// Writes a piece of the file to disk.
    ///
    /// # Errors
    /// Once, when the disk does not take it: then no more is kept, and nothing of it can be sent again.
    pub(super) async fn keep(&mut self, piece: Bytes) -> io::Result<()> {
        self.passed += piece.len() as u64;
        if self.is_lost {
            return Ok(());
        }
        // Until it has been written.
        self.is_lost = true;
        let mut spool = match self.spool.take() {
            Some(spool) => spool,
            None => Spool::new(&self.folder).await?,
        };
        spool.push(piece).await?;
        self.spool = Some(spool);
        self.is_lost = false;
        Ok(())
    }

    /// The file from here on, of what has come; `None`: that is all.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) async fn kept(&self, at: u64) -> io::Result<Option<Bytes>> {
        if at >= self.passed {
            return Ok(None);
        }
        let spool = self.spool.as_ref().ok_or_else(|| io::Error::other("it was not kept"))?;
        spool.read(at).await.map(Some)
    }

    /// Whether an attempt can be sent it from its beginning.
    pub(super) fn can_be_sent(&self) -> bool {
        !self.is_lost || self.passed == 0
    }

    /// Whether more of it may come.
    pub(super) fn is_coming(&self) -> bool {
        self.coming.is_some()
    }

    /// How long the caller's boundary is.
    pub(super) fn boundary_len(&self) -> usize {
        self.boundary_len
    }

    /// What a provider gets before the file.
    pub(super) fn head(&self, frame: &Frame) -> Bytes {
        frame.head(&self.form)
    }

    /// How long what a provider gets from the file on is; `None`: that cannot be known yet.
    ///
    /// While it comes that is as long as what the caller has still to send, because fields are written as they came: what
    /// the gateway changes stands before the file, as a rule.
    pub(super) fn length(&self, frame: &Frame) -> Option<u64> {
        match &self.coming {
            None => Some(self.passed + frame.tail(&self.form).len() as u64),
            Some(coming) => {
                coming.behind_head.filter(|_| frame.boundary_len() == self.boundary_len)
            }
        }
    }

    /// What a provider gets behind the file, when all is here. `promised`: how long it and the file were said to be.
    /// `None`: they are not.
    pub(super) fn tail(&self, frame: &Frame, promised: Option<u64>) -> Option<Bytes> {
        let mut tail = frame.tail(&self.form);
        let Some(promised) = promised else { return Some(tail) };
        let room = usize::try_from(promised.checked_sub(self.passed)?).ok()?;
        // Some clients end the last line, others do not.
        if room + b"\r\n".len() == tail.len() {
            tail.truncate(room);
        }
        (tail.len() == room).then_some(tail)
    }
}

impl Begun {
    /// Whether the whole form asks what was decided.
    fn holds(&self, form: &operations::Form) -> Result<(), Rejection> {
        let asked = form.read()?;
        if asked.model != self.model {
            return Err(comes_again("model"));
        }
        if asked.user == self.user {
            return Ok(());
        }
        // Another name may mean the same payer, and is none of ours then.
        let before = self.app.control.bill(&self.caller, self.user.as_deref())?;
        let now = self.app.control.bill(&self.caller, asked.user.as_deref())?;
        if now.user_id == before.user_id { Ok(()) } else { Err(comes_again("user")) }
    }
}

fn comes_again(name: &str) -> Rejection {
    let message = format!(
        "The form's field '{name}' comes again behind the file, and differs: send it once, before the file"
    );
    Rejection::new(Code::InvalidValue, message)
}

fn taken(part: Part, holds: Content) -> operations::Part {
    operations::Part { name: part.name, content_type: part.content_type, holds }
}

fn too_long(stop: Stop) -> Stop {
    match stop {
        Stop::Refused(refused) if refused.code == Code::BodyTooLarge => too_large().into(),
        other => other,
    }
}

fn too_large() -> Rejection {
    let message = "Audio file exceeds maximum upload size of 25 MB";
    Rejection::new(Code::BodyTooLarge, message)
}

fn no_disk(error: io::Error) -> Stop {
    not_kept().because(error).into()
}

/// The file is needed again, and is not there.
pub(super) fn not_kept() -> Rejection {
    let message = "The file cannot be kept while it is passed on. Try again";
    Rejection::new(Code::Unavailable, message)
}
