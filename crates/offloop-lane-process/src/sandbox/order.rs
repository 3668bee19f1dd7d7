//! The sandbox as the shim gets it: paths resolved, in a file of zero-terminated fields.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::real;
use crate::spec::Sandbox;

/// First field; an order of another form is refused.
const FORM: &str = "offloop sandbox 1";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) no_network: bool,
    pub(crate) read_only: bool,
    /// Not to be opened at all.
    pub(crate) hidden: Vec<PathBuf>,
    /// Also inside a hidden folder.
    pub(crate) readable: Vec<PathBuf>,
    pub(crate) writable: Vec<PathBuf>,
}

impl Order {
    /// `data`: hidden with every option. `readable` and `scratch`: the parts of it that a task
    /// needs.
    pub(crate) fn new(
        wish: &Sandbox,
        data: &[PathBuf],
        readable: PathBuf,
        scratch: PathBuf,
    ) -> Result<Self, String> {
        let all = |option: &str, paths: &mut dyn Iterator<Item = &PathBuf>| {
            paths
                .map(|path| real(option, path))
                .collect::<Result<Vec<_>, _>>()
        };
        let mut writable = all("writable", &mut wish.writable.iter())?;
        writable.push(scratch);
        Ok(Self {
            no_network: wish.no_network,
            read_only: wish.read_only,
            hidden: all("hidden", &mut wish.hidden.iter().chain(data))?,
            readable: vec![readable],
            writable,
        })
    }

    pub(super) fn option(&self) -> &'static str {
        match (self.read_only, self.no_network) {
            (true, _) => "read_only",
            (false, true) => "network = false",
            (false, false) => "hidden",
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut field = |key: &str, value: &[u8]| {
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(value);
            out.push(0);
        };
        field(FORM, b"");
        if self.no_network {
            field("n", b"");
        }
        if self.read_only {
            field("r", b"");
        }
        let lists = [
            ("h", &self.hidden),
            ("a", &self.readable),
            ("w", &self.writable),
        ];
        for (key, paths) in lists {
            for path in paths {
                field(key, path.as_os_str().as_bytes());
            }
        }
        field("end", b"");
        out
    }

    /// `None`: not whole, or not of this form.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = bytes.strip_suffix(b"end\0")?.split(|byte| *byte == 0);
        if fields.next()? != FORM.as_bytes() {
            return None;
        }
        let mut order = Self::default();
        for field in fields {
            let Some((key, value)) = field.split_first() else {
                continue; // after the last terminator
            };
            let path = || Path::new(OsStr::from_bytes(value)).to_owned();
            match key {
                b'n' => order.no_network = true,
                b'r' => order.read_only = true,
                b'h' => order.hidden.push(path()),
                b'a' => order.readable.push(path()),
                b'w' => order.writable.push(path()),
                _ => return None,
            }
        }
        Some(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_is_cut_short_is_not_a_weaker_one() {
        let odd = Path::new(OsStr::from_bytes(b"/x/\xff \n")).to_owned();
        let order = Order {
            no_network: true,
            read_only: true,
            hidden: vec!["/data".into(), odd],
            readable: vec!["/data/run/harness".into()],
            writable: vec!["/scratch".into()],
        };
        let bytes = order.encode();
        assert_eq!(Order::decode(&bytes), Some(order));
        for cut in 0..bytes.len() {
            assert_eq!(Order::decode(&bytes[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Order::decode(b"x\0end\0"), None);
    }
}
