//! What a form and its parts say of themselves: the boundary, and the head of a part.
//!
//! Must never: read a line in two ways (folded lines, bare line ends and repeated fields are
//! refused), or let a name through that another reader would see differently.

use super::FormError;

/// Of one part's head.
pub(super) const HEAD_BYTES_MAX: usize = 8 << 10;
const FIELDS_MAX: usize = 16;
const BOUNDARY_BYTES_MAX: usize = 70;

/// What a part says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FormHead {
    /// Of the form's field.
    pub name: String,
    pub file_name: Option<String>,
    pub content_type: Option<String>,
    transfer_encoding: Option<String>,
}

impl FormHead {
    pub(super) fn is_file(&self) -> bool {
        self.name == "file" || self.file_name.is_some()
    }

    /// Bytes are taken as they are: RFC 7578 has no use for the other encodings of mail.
    pub(super) fn check_encoding(&self) -> Result<(), String> {
        match self.transfer_encoding.as_deref() {
            None => Ok(()),
            Some(plain)
                if ["binary", "8bit", "7bit"]
                    .iter()
                    .any(|known| plain.eq_ignore_ascii_case(known)) =>
            {
                Ok(())
            }
            Some(other) => Err(format!(
                "Content-Transfer-Encoding {:?} is not taken; send the bytes as they are (binary)",
                shown(other)
            )),
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

/// The boundary of a form, from its Content-Type.
pub(super) fn boundary(content_type: &str) -> Result<String, FormError> {
    let wrong = |why| FormError::Boundary { why };
    let rest = content_type.split_once(';').map_or("", |(_, rest)| rest);
    let parameters = parameters(rest).map_err(wrong)?;
    let mut boundaries = parameters
        .into_iter()
        .filter(|(name, _)| name == "boundary");
    let (_, boundary) = boundaries.next().ok_or(wrong("there is none"))?;
    if boundaries.next().is_some() {
        // Readers differ in which one they take.
        return Err(wrong("there are two"));
    }
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
    if boundary.is_empty() || boundary.len() > BOUNDARY_BYTES_MAX {
        return Err(wrong("its length is out of range"));
    }
    if !boundary.bytes().all(is_legal) || boundary.ends_with(' ') {
        return Err(wrong("it has characters that RFC 2046 does not allow"));
    }
    Ok(boundary)
}

/// The head of a part, without the line end of its last line.
pub(super) fn parse(head: &[u8]) -> Result<FormHead, String> {
    let text = std::str::from_utf8(head).map_err(|_| "is no UTF-8".to_owned())?;
    let mut found = FormHead::default();
    let mut is_named = false;
    let lines = text.split("\r\n").filter(|_| !text.is_empty());
    for (count, line) in lines.enumerate() {
        if count == FIELDS_MAX {
            return Err(format!("has more than {FIELDS_MAX} fields"));
        }
        if line.contains(|char: char| char.is_control() && char != '\t') {
            return Err("has control characters".into());
        }
        if line.starts_with([' ', '\t']) {
            return Err("has a folded line; write each field on one".into());
        }
        let Some((name, value)) = line.split_once(':') else {
            return Err(format!("has a line without a colon: {:?}", shown(line)));
        };
        let value = value.trim_matches([' ', '\t']);
        let twice = |known: &str| Err(format!("has {known} twice"));
        match name.to_ascii_lowercase().as_str() {
            "content-disposition" if is_named => return twice("Content-Disposition"),
            "content-disposition" => {
                is_named = true;
                disposition(value, &mut found)?;
            }
            "content-type" if found.content_type.is_some() => return twice("Content-Type"),
            "content-type" => found.content_type = Some(value.to_owned()),
            "content-transfer-encoding" if found.transfer_encoding.is_some() => {
                return twice("Content-Transfer-Encoding");
            }
            "content-transfer-encoding" => found.transfer_encoding = Some(value.to_owned()),
            // RFC 7578, section 4.8: other fields must be ignored.
            _ => {}
        }
    }
    if !is_named {
        return Err("has no Content-Disposition".into());
    }
    Ok(found)
}

fn disposition(value: &str, found: &mut FormHead) -> Result<(), String> {
    let (kind, rest) = value.split_once(';').unwrap_or((value, ""));
    if !kind.trim().eq_ignore_ascii_case("form-data") {
        return Err(format!(
            "Content-Disposition is {:?}, not form-data",
            shown(kind)
        ));
    }
    let wrong = |why| format!("Content-Disposition: {why}");
    let (mut name, mut file_name, mut extended) = (None, None, None);
    for (key, value) in parameters(rest).map_err(wrong)? {
        let before = match key.as_str() {
            "name" => name.replace(value),
            "filename" => file_name.replace(value),
            // Not of RFC 7578, but senders write it beside the plain one.
            "filename*" => extended.replace(value),
            _ => None,
        };
        if before.is_some() {
            return Err(wrong("a parameter is given twice"));
        }
    }
    found.name = name.ok_or_else(|| wrong("has no name"))?;
    found.file_name = file_name.or(extended);
    Ok(())
}

/// `; name=token` and `; name="quoted"`. In quotes a backslash stands before a quote or a
/// backslash; before anything else it is itself, as in the paths that some browsers send.
fn parameters(mut rest: &str) -> Result<Vec<(String, String)>, &'static str> {
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        if rest.is_empty() {
            return Ok(found);
        }
        let Some((name, value)) = rest.split_once('=') else {
            return Err("a parameter has no value");
        };
        let name = name.trim().to_ascii_lowercase();
        let Some(quoted) = value.strip_prefix('"') else {
            let end = value.find(';').unwrap_or(value.len());
            found.push((name, value[..end].trim().to_owned()));
            rest = &value[end..];
            continue;
        };
        let mut text = String::new();
        let mut chars = quoted.char_indices().peekable();
        let end = loop {
            match chars.next() {
                None => return Err("a quote is not closed"),
                Some((at, '"')) => break at + 1,
                Some((_, '\\')) => {
                    let escaped = chars.next_if(|(_, next)| matches!(next, '"' | '\\'));
                    text.push(escaped.map_or('\\', |(_, char)| char));
                }
                Some((_, char)) => text.push(char),
            }
        };
        found.push((name, text));
        rest = quoted[end..].trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(';') {
            return Err("something follows a closing quote");
        }
    }
}
