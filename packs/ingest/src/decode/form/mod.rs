//! One file out of a `multipart/form-data` body (RFC 7578, RFC 2046 section 5.1), in push mode.
//!
//! Path: body -> **form** -> decoder. The file is the first part that is named `file` or has a file
//! name; every other part is refused by its name, because nothing would come of it. What the file
//! holds is handed on as slices of what came in.
//!
//! Must never: hold more than a part's head and a boundary; take a body without its closing boundary
//! for a whole one; hand on other bytes for other pieces of the same body.

mod head;

use bytes::Bytes;
use memchr::memmem::Finder;

pub use head::FormHead;
use head::HEAD_BYTES_MAX;

/// Before the first boundary and behind the last one.
const AROUND_BYTES_MAX: usize = 64 << 10;
/// Spaces behind a boundary.
const PADDING_BYTES_MAX: usize = 256;

/// Why a form cannot be read. What was handed on before stays good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormError {
    #[error("multipart/form-data needs one boundary of 1 to 70 characters in Content-Type: {why}")]
    Boundary { why: &'static str },
    #[error("the form has more than {AROUND_BYTES_MAX} bytes {place}")]
    Around { place: &'static str },
    #[error(
        "at byte {at} of the form stands a boundary that is followed by neither a line end nor `--`"
    )]
    Delimiter { at: u64 },
    #[error("the head of the form's part at byte {at}: {why}")]
    Head { at: u64, why: String },
    #[error(
        "the form has the field `{name}` {place} its file; send the file alone, as in -F file=@rows.csv, and say what else there is in the query"
    )]
    Field { name: String, place: &'static str },
    #[error("the form has no file: no part is named `file` or has a file name")]
    NoFile,
    #[error("the form ended before its closing boundary")]
    Cut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first boundary.
    Preamble,
    /// Behind a boundary.
    Delimiter,
    Head,
    File,
    Epilogue,
}

/// The reader of one form.
#[derive(Debug)]
pub struct FormFile {
    /// CR LF `--` and the boundary.
    delimiter: Finder<'static>,
    place: Place,
    /// What came and cannot be told yet: the start of a delimiter, what follows one, or a head.
    held: Vec<u8>,
    head: Option<FormHead>,
    /// Bytes of the body that are not in `held`.
    done: u64,
    /// Outside the parts.
    around: usize,
}

impl FormFile {
    /// Whether a body of this Content-Type is a form.
    pub fn is_form(content_type: &str) -> bool {
        let essence = content_type.split(';').next().unwrap_or_default();
        essence.trim().eq_ignore_ascii_case("multipart/form-data")
    }

    /// For a body of this Content-Type.
    pub fn new(content_type: &str) -> Result<Self, FormError> {
        let boundary = head::boundary(content_type)?;
        let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
        Ok(Self {
            delimiter: Finder::new(&delimiter).into_owned(),
            place: Place::Preamble,
            // The first boundary needs no line end before it.
            held: b"\r\n".to_vec(),
            head: None,
            done: 0,
            around: 0,
        })
    }

    /// What the file's part says of itself, once it is read.
    pub fn head(&self) -> Option<&FormHead> {
        self.head.as_ref()
    }

    /// Takes all of `piece`; what of it is the file's is put behind `out`.
    pub fn push(&mut self, piece: &Bytes, out: &mut Vec<Bytes>) -> Result<(), FormError> {
        let mut piece = piece.clone();
        while !piece.is_empty() {
            match self.place {
                Place::Preamble => {
                    let before = piece.len();
                    let found = self.scan(&mut piece, &mut |_| {});
                    self.around += before - piece.len();
                    if self.around > AROUND_BYTES_MAX {
                        let place = "before its first boundary";
                        return Err(FormError::Around { place });
                    }
                    if found {
                        self.place = Place::Delimiter;
                    }
                }
                Place::Delimiter => self.after_delimiter(&mut piece)?,
                Place::Head => self.read_head(&mut piece)?,
                Place::File => {
                    if self.scan(&mut piece, &mut |bytes| out.push(bytes)) {
                        self.place = Place::Delimiter;
                    }
                }
                Place::Epilogue => {
                    self.around += piece.len();
                    if self.around > AROUND_BYTES_MAX {
                        let place = "behind its last boundary";
                        return Err(FormError::Around { place });
                    }
                    piece.clear();
                }
            }
        }
        Ok(())
    }

    /// Nothing follows.
    pub fn finish(&self) -> Result<(), FormError> {
        match self.place {
            Place::Epilogue if self.head.is_some() => Ok(()),
            Place::Epilogue => Err(FormError::NoFile),
            _ => Err(FormError::Cut),
        }
    }

    /// Hands on what stands before the delimiter and takes it with the delimiter from `piece`; without
    /// one, all but what may be its start. Whether there was one.
    fn scan(&mut self, piece: &mut Bytes, hand_on: &mut dyn FnMut(Bytes)) -> bool {
        let needle = self.delimiter.needle().len();
        if !self.held.is_empty() {
            // Enough of the piece to tell what the held bytes are.
            let more = piece.len().min(needle - 1);
            let was = self.held.len();
            self.held.extend_from_slice(&piece[..more]);
            if let Some(at) = self.delimiter.find(&self.held) {
                let _taken = piece.split_to(at + needle - was);
                self.done += (at + needle) as u64;
                let before = std::mem::take(&mut self.held);
                if at > 0 {
                    hand_on(Bytes::from(before).slice(..at));
                }
                return true;
            }
            let keep = self.tail(&self.held);
            let told = self.held.len() - keep;
            if told < was {
                // Still the start of one: the piece was short.
                self.done += hand_on_held(&mut self.held, told, hand_on);
                let _taken = piece.split_to(more);
                return false;
            }
            // The held bytes are data; what follows them is looked at in the piece itself.
            self.held.truncate(was);
            self.done += hand_on_held(&mut self.held, was, hand_on);
        }
        if let Some(at) = self.delimiter.find(piece) {
            let before = piece.split_to(at);
            let _delimiter = piece.split_to(needle);
            self.done += (at + needle) as u64;
            if !before.is_empty() {
                hand_on(before);
            }
            return true;
        }
        let told = piece.len() - self.tail(piece);
        let before = piece.split_to(told);
        self.done += told as u64;
        self.held.extend_from_slice(piece);
        piece.clear();
        if !before.is_empty() {
            hand_on(before);
        }
        false
    }

    /// Length of the longest end of `bytes` that a delimiter may begin with.
    fn tail(&self, bytes: &[u8]) -> usize {
        let needle = self.delimiter.needle();
        let most = bytes.len().min(needle.len() - 1);
        let lengths = (1..=most).rev();
        let mut fitting = lengths.filter(|len| needle.starts_with(&bytes[bytes.len() - len..]));
        fitting.next().unwrap_or(0)
    }

    /// `--`: the form is over. Otherwise padding and a line end: a part begins.
    fn after_delimiter(&mut self, piece: &mut Bytes) -> Result<(), FormError> {
        while !piece.is_empty() {
            self.held.push(piece.split_to(1)[0]);
            let padding = self.held.iter();
            let padding = padding.take_while(|byte| matches!(byte, b' ' | b'\t'));
            let padding = padding.count();
            match &self.held[padding..] {
                b"-" if padding == 0 => {}
                b"" | b"\r" if padding <= PADDING_BYTES_MAX => {}
                b"--" if padding == 0 => {
                    self.end_of_form();
                    return Ok(());
                }
                b"\r\n" => {
                    self.done += self.held.len() as u64;
                    self.held.clear();
                    self.place = Place::Head;
                    return Ok(());
                }
                _ => return Err(FormError::Delimiter { at: self.at() }),
            }
        }
        Ok(())
    }

    /// In the body, of which the first line end is not a byte.
    fn at(&self) -> u64 {
        self.done.saturating_sub(2)
    }

    fn end_of_form(&mut self) {
        self.done += self.held.len() as u64;
        self.held.clear();
        self.around = 0;
        self.place = Place::Epilogue;
    }

    /// To the empty line that ends a part's head.
    fn read_head(&mut self, piece: &mut Bytes) -> Result<(), FormError> {
        const END: &[u8] = b"\r\n\r\n";
        let at = self.at();
        let wrong = |why: String| FormError::Head { at, why };
        // Read with the line end before it, so that an empty head ends too.
        if self.held.is_empty() {
            self.held.extend_from_slice(b"\r\n");
        }
        let was = self.held.len();
        let room = (HEAD_BYTES_MAX + END.len() + 1).saturating_sub(was);
        let more = piece.len().min(room);
        self.held.extend_from_slice(&piece[..more]);
        let from = was.saturating_sub(END.len() - 1);
        let found = memchr::memmem::find(&self.held[from..], END);
        let Some(end) = found.map(|found| from + found) else {
            if self.held.len() > HEAD_BYTES_MAX + 2 {
                return Err(wrong(format!("is over {HEAD_BYTES_MAX} bytes")));
            }
            let _taken = piece.split_to(more);
            return Ok(());
        };
        let _taken = piece.split_to(end + END.len() - was);
        self.done += (end + END.len() - 2) as u64;
        let lines = std::mem::take(&mut self.held);
        let lines = lines.get(2..end).unwrap_or_default(); // an empty head has no line end of its own
        let part = head::parse(lines).map_err(wrong)?;
        let field = |place| FormError::Field {
            name: part.name.chars().take(100).collect(),
            place,
        };
        if self.head.is_some() {
            return Err(field("behind"));
        }
        if !part.is_file() {
            return Err(field("before"));
        }
        part.check_encoding().map_err(wrong)?;
        self.head = Some(part);
        self.place = Place::File;
        Ok(())
    }
}

/// How many: `len`.
fn hand_on_held(held: &mut Vec<u8>, len: usize, hand_on: &mut dyn FnMut(Bytes)) -> u64 {
    if len > 0 {
        hand_on(held.drain(..len).collect());
    }
    len as u64
}
