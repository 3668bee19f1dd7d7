//! The row of one photo: what is kept, and how it is written down.
//!
//! A row's key is the file's absolute path, its label the status. The same text travels as the
//! payload of the conversion's job, so that whatever ends the job can write the whole row.

use bytes::Bytes;
use offloop::job::{NameError, RecordWrite};
use offloop::{TaskContext, TaskError, TaskName};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::probe::Probe;
use crate::walk::RelPath;

/// Where a photo is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    #[serde(rename = "PENDING_CONVERSION")]
    Pending,
    /// Shown while a conversion runs; never written.
    #[serde(rename = "CONVERTING")]
    Converting,
    #[serde(rename = "DONE")]
    Done,
    #[serde(rename = "FAILED")]
    Failed,
    /// The file was there and is not any more.
    #[serde(rename = "MISSING")]
    Missing,
}

impl Status {
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::Converting,
        Self::Done,
        Self::Failed,
        Self::Missing,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING_CONVERSION",
            Self::Converting => "CONVERTING",
            Self::Done => "DONE",
            Self::Failed => "FAILED",
            Self::Missing => "MISSING",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

/// Names of the pack in the store. Parsed once.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) collection: TaskName,
    pub(crate) scan: TaskName,
    pub(crate) convert: TaskName,
    labels: [TaskName; 5],
}

impl Names {
    pub(crate) fn new() -> Result<Self, NameError> {
        let label = |status: Status| TaskName::parse(status.as_str());
        let [pending, converting, done, failed, missing] = Status::ALL;
        Ok(Self {
            collection: TaskName::parse("photos")?,
            scan: TaskName::parse("photos.scan")?,
            convert: TaskName::parse("photos.convert")?,
            labels: [
                label(pending)?,
                label(converting)?,
                label(done)?,
                label(failed)?,
                label(missing)?,
            ],
        })
    }

    pub(crate) fn label(&self, status: Status) -> &TaskName {
        &self.labels[status as usize]
    }
}

/// What tells that a file has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    pub(crate) bytes: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) inode: u64,
}

/// One photo. Paths are text without loss: bytes that are not UTF-8 are escaped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The scanned folder.
    pub(crate) root: String,
    /// Below it.
    pub(crate) path: String,
    pub(crate) file: Fingerprint,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) format: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) width: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) height: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) orientation: Option<u8>,
    /// By the camera's clock; with its zone where the camera recorded one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) taken: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) make: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// Latitude and longitude in degrees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gps: Option<(f64, f64)>,
    /// Of a row that failed: `corrupt`, `unsupported`, `too_large`, `io`, or the job's class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) class: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
    /// Width and height of the large thumbnail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) thumbnail: Option<(u32, u32)>,
}

impl Row {
    pub(crate) fn new(root: &str, path: &RelPath, file: Fingerprint) -> Self {
        Self {
            root: root.to_owned(),
            path: path.to_text(),
            file,
            format: None,
            width: None,
            height: None,
            orientation: None,
            taken: None,
            make: None,
            model: None,
            gps: None,
            class: None,
            message: None,
            thumbnail: None,
        }
    }

    /// What the file's head says.
    pub(crate) fn describe(&mut self, probe: &Probe) {
        let known = |side: u32| (side > 0).then_some(side);
        self.format = Some(probe.format.name().to_owned());
        (self.width, self.height) = (known(probe.width), known(probe.height));
        self.orientation = Some(probe.exif.orientation.exif_value());
        self.taken = probe
            .exif
            .taken
            .as_ref()
            .map(|taken| match taken.offset_minutes {
                Some(offset) => {
                    let (sign, minutes) =
                        (if offset < 0 { '-' } else { '+' }, offset.unsigned_abs());
                    format!(
                        "{}{sign}{:02}:{:02}",
                        taken.local,
                        minutes / 60,
                        minutes % 60
                    )
                }
                None => taken.local.clone(),
            });
        self.make.clone_from(&probe.exif.make);
        self.model.clone_from(&probe.exif.model);
        self.gps = probe.exif.position;
    }

    #[must_use]
    pub(crate) fn failed(mut self, class: &str, message: &str) -> Self {
        const MESSAGE_BYTES_MAX: usize = 500;
        let end = message.floor_char_boundary(MESSAGE_BYTES_MAX.min(message.len()));
        self.class = Some(class.to_owned());
        self.message = Some(message[..end].to_owned());
        self.thumbnail = None;
        self
    }

    pub(crate) fn key(&self) -> Bytes {
        format!("{}/{}", self.root.trim_end_matches('/'), self.path).into()
    }

    /// Of the thumbnails and in URLs: it tells nothing of the path.
    pub(crate) fn id(&self) -> String {
        id_of(&self.key())
    }

    pub(crate) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into() // no map keys, no failing writer
    }

    pub(crate) fn write(&self, names: &Names, status: Status) -> RecordWrite {
        RecordWrite {
            collection: names.collection.clone(),
            key: self.key(),
            label: Some(names.label(status).clone()),
            value: self.encode(),
        }
    }

    pub(crate) fn of_job(context: &TaskContext) -> Result<Self, TaskError> {
        offloop::payload(context)
    }
}

/// 32 hexadecimal digits.
pub(crate) fn id_of(key: &[u8]) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::digest(key);
    digest[..16]
        .iter()
        .fold(String::with_capacity(32), |mut id, byte| {
            let _ = write!(id, "{byte:02x}");
            id
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_survives_its_text_and_its_labels_their_names() {
        let file = Fingerprint {
            bytes: 1,
            mtime_ns: -2,
            inode: 3,
        };
        let path = RelPath::from_bytes(b"a/\xff.jpg").unwrap();
        let row = Row::new("/photos/", &path, file).failed("corrupt", &"ü".repeat(400));
        let read: Row = serde_json::from_slice(&row.encode()).unwrap();
        assert_eq!(read, row);
        assert_eq!(RelPath::from_text(&read.path), Some(path));
        assert_eq!(row.message.as_ref().unwrap().len(), 500);
        assert_eq!(row.id().len(), 32);
        let names = Names::new().unwrap();
        for status in Status::ALL {
            assert_eq!(names.label(status).as_str(), status.as_str());
            assert_eq!(Status::from_name(status.as_str()), Some(status));
        }
    }
}
