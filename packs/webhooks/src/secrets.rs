//! Secrets of a folder, and signatures by them after Standard Webhooks 1.0.0: HMAC-SHA256 over
//! `id.timestamp.body`.
//!
//! Files `NAME.vN.whsec` with one line `whsec_BASE64`. The two highest versions of a name sign, so that
//! receivers may be changed one after the other. The files are the server's user's alone.
//!
//! Must never: show a secret, in an error either.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64_simd::STANDARD;
use rustix::fs::{Mode, OFlags, fstat, open};
use zeroize::Zeroizing;

/// Versions that sign at a time.
const ACTIVE: usize = 2;
const FILES_MAX: usize = 1_000;
const FILE_BYTES_MAX: u64 = 1 << 10;
/// Of the key itself (Standard Webhooks: 24 to 64).
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
const NAME_BYTES_MAX: usize = 64;
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A folder or a file of it that cannot be taken as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct SecretsError {
    pub place: String,
    pub problem: String,
}

/// 1 to 64 bytes of `a-z 0-9 _ -`.
pub(crate) fn is_name(text: &str) -> bool {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain)
}

/// All secrets of a folder, at one moment: name, versions with the newest first.
#[derive(Default)]
pub struct Secrets(BTreeMap<Box<str>, Vec<(u32, hmac::Key)>>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Secrets {
    /// Reads the folder, whole or not at all.
    pub fn load(folder: &Path) -> Result<Self, SecretsError> {
        let place = folder.display().to_string();
        let fail = |problem: String| SecretsError {
            place: place.clone(),
            problem,
        };
        let entries = std::fs::read_dir(folder).map_err(|error| fail(error.to_string()))?;
        let mut found = Self::default();
        for (count, entry) in entries.enumerate() {
            if count >= FILES_MAX {
                return Err(fail(format!("has more than {FILES_MAX} files")));
            }
            let entry = entry.map_err(|error| fail(error.to_string()))?;
            let file = entry.file_name().to_string_lossy().into_owned();
            let Some((name, version)) = file_name(&file) else {
                continue; // notes, and files of editors
            };
            let key = read(&entry.path()).map_err(|problem| SecretsError {
                place: file.clone(),
                problem,
            })?;
            found.0.entry(name.into()).or_default().push((version, key));
        }
        for versions in found.0.values_mut() {
            versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
        }
        Ok(found)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Names, and the versions that sign.
    pub fn names(&self) -> impl Iterator<Item = (&str, Vec<u32>)> {
        let active = |all: &[(u32, hmac::Key)]| all.iter().take(ACTIVE).map(|one| one.0).collect();
        self.0.iter().map(move |(name, all)| (&**name, active(all)))
    }

    /// The header `webhook-signature`: one signature per active version. `None`: no such secret.
    pub fn sign(&self, name: &str, id: &str, seconds: u64, body: &[u8]) -> Option<String> {
        let versions = self.0.get(name)?;
        let signed = versions.iter().take(ACTIVE).map(|(_, key)| {
            let mut context = hmac::Context::with_key(key);
            context.update(format!("{id}.{seconds}.").as_bytes());
            context.update(body);
            format!("v1,{}", STANDARD.encode_to_string(context.sign()))
        });
        Some(signed.collect::<Vec<_>>().join(" "))
    }
}

fn file_name(text: &str) -> Option<(&str, u32)> {
    let (name, version) = text.strip_suffix(".whsec")?.split_once(".v")?;
    let digits = version.bytes().all(|byte| byte.is_ascii_digit()) && !version.starts_with('0');
    let version = version.parse().ok().filter(|_| digits)?;
    is_name(name).then_some((name, version))
}

/// Opened without following a link, and judged by its own descriptor.
fn read(path: &Path) -> Result<hmac::Key, String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = open(path, flags, Mode::empty()).map_err(|error| error.to_string())?;
    let stat = fstat(&file).map_err(|error| error.to_string())?;
    let mode = stat.st_mode;
    if mode & 0o17_0000 != 0o10_0000 {
        return Err("is no plain file".into());
    }
    if mode & 0o077 != 0 {
        let mode = mode & 0o777;
        return Err(format!(
            "can be read by others (mode {mode:o}); chmod 600 it"
        ));
    }
    let mut text = Zeroizing::new(String::new());
    let mut file = std::fs::File::from(file).take(FILE_BYTES_MAX + 1);
    file.read_to_string(&mut text)
        .map_err(|_| "is no text".to_owned())?;
    let shape = "does not hold one line whsec_BASE64 of 24 to 64 bytes; make one with `printf 'whsec_%s\\n' \"$(openssl rand -base64 32)\"`";
    let base64 = text.trim().strip_prefix("whsec_").ok_or(shape)?;
    let bytes = STANDARD.decode_to_vec(base64).map_err(|_| shape)?;
    let bytes = Zeroizing::new(bytes);
    if !KEY_BYTES.contains(&bytes.len()) {
        return Err(shape.into());
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

#[derive(Debug)]
struct Known {
    set: Arc<Secrets>,
    looked: Instant,
    problem: Option<String>,
}

/// The secrets in force. They follow the folder within a second; one that cannot be read leaves the
/// old ones in force, and says so.
#[derive(Debug)]
pub(crate) struct Keyring {
    folder: PathBuf,
    known: Mutex<Known>,
}

impl Keyring {
    pub(crate) fn open(folder: &Path) -> Result<Self, SecretsError> {
        let set = Arc::new(Secrets::load(folder)?);
        let known = Mutex::new(Known {
            set,
            looked: Instant::now(),
            problem: None,
        });
        Ok(Self {
            folder: folder.into(),
            known,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Without a look at the folder: for doors.
    pub(crate) fn known(&self) -> Arc<Secrets> {
        Arc::clone(&self.lock().set)
    }

    pub(crate) fn problem(&self) -> Option<String> {
        self.lock().problem.clone()
    }

    /// After a look at the folder, when the last one was a second ago.
    pub(crate) fn fresh(&self) -> Arc<Secrets> {
        let mut known = self.lock();
        if known.looked.elapsed() < LOOK_EVERY {
            return Arc::clone(&known.set);
        }
        known.looked = Instant::now();
        match Secrets::load(&self.folder) {
            Ok(set) => {
                known.set = Arc::new(set);
                known.problem = None;
            }
            Err(error) => {
                let problem = error.to_string();
                if known.problem.as_ref() != Some(&problem) {
                    tracing::warn!(%problem, "the webhook secrets that were read before stay in force");
                }
                known.problem = Some(problem);
            }
        }
        Arc::clone(&known.set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn put(folder: &Path, name: &str, text: &str, mode: u32) {
        let file = folder.join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// The vector of the specification.
    #[test]
    fn a_signature_is_what_every_library_of_the_standard_checks() {
        let folder = tempfile::tempdir().unwrap();
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n";
        put(folder.path(), "default.v1.whsec", secret, 0o600);
        let secrets = Secrets::load(folder.path()).unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signed = secrets.sign(
            "default",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            body,
        );
        let want = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signed.as_deref(), Some(want));
        assert_eq!(secrets.sign("other", "m", 1, body), None);
        assert!(!format!("{secrets:?}").contains("MfKQ"));
    }

    #[test]
    fn the_two_newest_versions_sign() {
        let folder = tempfile::tempdir().unwrap();
        let key = |byte: u8| format!("whsec_{}", STANDARD.encode_to_string([byte; 32]));
        for version in [1, 2, 10] {
            let name = format!("a.v{version}.whsec");
            put(folder.path(), &name, &key(version), 0o600);
        }
        let secrets = Secrets::load(folder.path()).unwrap();
        assert_eq!(secrets.names().collect::<Vec<_>>(), [("a", vec![10, 2])]);
        let signed = secrets.sign("a", "m", 1, b"x").unwrap();
        assert_eq!(signed.split(' ').count(), 2);
        std::fs::remove_file(folder.path().join("a.v10.whsec")).unwrap();
        let before = Secrets::load(folder.path()).unwrap();
        let old = before.sign("a", "m", 1, b"x").unwrap();
        assert_eq!(old.split(' ').next(), signed.split(' ').nth(1));
    }

    #[test]
    fn a_secret_that_others_could_read_or_guess_stops_the_start_without_being_shown() {
        let good = format!("whsec_{}", STANDARD.encode_to_string([7; 32]));
        let rows = [
            (good.as_str(), 0o640, "chmod 600"),
            (good.as_str(), 0o604, "chmod 600"),
            ("whsec_c2hvcnQ=", 0o600, "24 to 64"),
            ("hunter2", 0o600, "whsec_BASE64"),
            ("whsec_***", 0o600, "whsec_BASE64"),
        ];
        for (text, mode, says) in rows {
            let folder = tempfile::tempdir().unwrap();
            put(folder.path(), "a.v1.whsec", text, mode);
            let error = Secrets::load(folder.path()).unwrap_err().to_string();
            assert!(
                error.contains(says) && error.contains("a.v1.whsec"),
                "{error}"
            );
            assert!(
                !error.contains("hunter2") && !error.contains("Bwc"),
                "{error}"
            );
        }
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "target", &good, 0o600);
        std::os::unix::fs::symlink(
            folder.path().join("target"),
            folder.path().join("a.v1.whsec"),
        )
        .unwrap();
        assert!(Secrets::load(folder.path()).is_err(), "a link was followed");
    }
}
