//! Who may: one token, told by a header or by a cookie that was made from it.
//!
//! The cookie holds an instant and a code made of it and the token (HMAC-SHA256, RFC 2104), so the
//! door keeps no sessions, and another token ends them all.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, header};
use axum::middleware::Next;
use offloop_job::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::door::Inner;
use crate::problem::{Kind, respond};

pub(crate) const COOKIE: &str = "offloop_session";
/// How long a sign-in lasts.
pub(crate) const SESSION: Duration = Duration::from_secs(12 * 3600);

/// Wrong tokens that are answered 401 before 429: so many at once, and so many a second.
const WRONG_BURST: f64 = 60.0;
const WRONG_PER_SECOND: f64 = 5.0;

type Digest = [u8; 32];

/// Knows the token by its digest only.
#[derive(Debug)]
pub(crate) struct Keeper {
    token: Digest,
    wrong: Mutex<Wrong>,
}

#[derive(Debug)]
struct Wrong {
    left: f64,
    at: Instant,
}

/// What a request showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Right,
    Nothing,
    Wrong,
}

impl Keeper {
    pub(crate) fn new(token: &str) -> Self {
        let wrong = Wrong {
            left: WRONG_BURST,
            at: Instant::now(),
        };
        Self {
            token: Sha256::digest(token.as_bytes()).into(),
            wrong: Mutex::new(wrong),
        }
    }

    pub(crate) fn is_token(&self, token: &str) -> bool {
        same(&Sha256::digest(token.as_bytes()).into(), &self.token)
    }

    pub(crate) fn look(&self, headers: &HeaderMap, now: Timestamp) -> Shown {
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            let token = value.to_str().ok().and_then(|text| {
                let (scheme, token) = text.split_once(' ')?;
                scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
            });
            return match token {
                Some(token) if self.is_token(token) => Shown::Right,
                _ => Shown::Wrong,
            };
        }
        match cookie(headers) {
            None => Shown::Nothing,
            Some(session) if self.is_session(session, now) => Shown::Right,
            Some(_) => Shown::Wrong,
        }
    }

    /// The cookie's value for a sign-in now.
    pub(crate) fn session(&self, now: Timestamp) -> String {
        let until = now.plus(SESSION).as_millis();
        format!("{until}.{}", hex(&self.code(until)))
    }

    fn is_session(&self, session: &str, now: Timestamp) -> bool {
        let Some((until, code)) = session.split_once('.') else {
            return false;
        };
        let Ok(until) = until.parse::<u64>() else {
            return false;
        };
        let Some(code) = unhex(code) else {
            return false;
        };
        same(&code, &self.code(until)) && now.as_millis() < until
    }

    fn code(&self, until: u64) -> Digest {
        hmac(
            &self.token,
            format!("offloop session until {until}").as_bytes(),
        )
    }

    /// Counts a wrong token; false when there were too many of late.
    pub(crate) fn may_be_wrong(&self) -> bool {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let earned = now.duration_since(wrong.at).as_secs_f64() * WRONG_PER_SECOND;
        wrong.at = now;
        wrong.left = (wrong.left + earned).min(WRONG_BURST);
        let may = wrong.left >= 1.0;
        if may {
            wrong.left -= 1.0;
        }
        may
    }
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter();
    let mut pairs = cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|all| all.split(';'));
    pairs.find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == COOKIE).then_some(value)
    })
}

/// Compares in a time that does not depend on where they differ.
fn same(a: &Digest, b: &Digest) -> bool {
    let differ = a
        .iter()
        .zip(b)
        .fold(0_u8, |differ, (a, b)| differ | (a ^ b));
    std::hint::black_box(differ) == 0
}

/// RFC 2104 for a key that is no longer than a block.
fn hmac(key: &Digest, message: &[u8]) -> Digest {
    let pad = |with: u8| {
        let mut block = [with; 64];
        for (byte, key) in block.iter_mut().zip(key) {
            *byte ^= key;
        }
        block
    };
    let inner = Sha256::new()
        .chain_update(pad(0x36))
        .chain_update(message)
        .finalize();
    Sha256::new()
        .chain_update(pad(0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}

fn hex(bytes: &Digest) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value & 0xf)]);
            text.push(digit(byte >> 4));
            text.push(digit(*byte));
            text
        })
}

fn unhex(text: &str) -> Option<Digest> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(bytes)
}

/// Before every route but the open ones, and before "not found".
pub(crate) async fn require(
    State(door): State<Arc<Inner>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let Some(keeper) = &door.keeper else {
        return next.run(request).await;
    };
    let detail = match keeper.look(request.headers(), door.handle.now()) {
        Shown::Right => return next.run(request).await,
        Shown::Nothing => "send `Authorization: Bearer TOKEN`, or sign in at the dashboard",
        Shown::Wrong if keeper.may_be_wrong() => "this token or sign-in is not valid here",
        Shown::Wrong => return respond(&Kind::TooManyAttempts.say("wait before the next try")),
    };
    respond(&Kind::Unauthorized.say(detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn the_code_is_the_one_of_the_standard() {
        // RFC 4231, case 2, with its key padded as RFC 2104 does: "Jefe" and zeros.
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let want = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex(&hmac(&key, b"what do ya want for nothing?")), want);
        assert_eq!(unhex(want).map(|code| hex(&code)).as_deref(), Some(want));
    }

    #[test]
    fn only_the_token_and_what_was_made_from_it_open_the_door() {
        let keeper = Keeper::new("correct horse battery");
        let now = Timestamp::from_millis(1_000_000);
        let session = keeper.session(now);
        let late = Timestamp::from_millis(session.split('.').next().unwrap().parse().unwrap());
        let forged = session.replace("1000000", "9000000");
        let other = Keeper::new("another token, also long").session(now);
        let rows = [
            (
                header::AUTHORIZATION,
                "Bearer correct horse battery".to_owned(),
                now,
                Shown::Right,
            ),
            (
                header::AUTHORIZATION,
                "bearer correct horse battery".into(),
                now,
                Shown::Right,
            ),
            (
                header::AUTHORIZATION,
                "Bearer correct horse batterz".into(),
                now,
                Shown::Wrong,
            ),
            (header::AUTHORIZATION, "Bearer".into(), now, Shown::Wrong),
            (
                header::AUTHORIZATION,
                "Basic Y29ycmVjdA==".into(),
                now,
                Shown::Wrong,
            ),
            (
                header::COOKIE,
                format!("a=b; {COOKIE}={session}"),
                now,
                Shown::Right,
            ),
            (
                header::COOKIE,
                format!("{COOKIE}={session}"),
                late,
                Shown::Wrong,
            ),
            (
                header::COOKIE,
                format!("{COOKIE}={session}0"),
                now,
                Shown::Wrong,
            ),
            (
                header::COOKIE,
                format!("{COOKIE}={other}"),
                now,
                Shown::Wrong,
            ),
            (
                header::COOKIE,
                format!("{COOKIE}={}", forged + "x"),
                now,
                Shown::Wrong,
            ),
            (header::COOKIE, "a=b".into(), now, Shown::Nothing),
        ];
        for (name, value, now, want) in rows {
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_str(&value).unwrap())]);
            assert_eq!(keeper.look(&headers, now), want, "{value}");
        }
    }

    #[test]
    fn guessing_is_slowed() {
        let keeper = Keeper::new("correct horse battery");
        let began = Instant::now();
        let allowed = (0..1_000).filter(|_| keeper.may_be_wrong()).count() as f64;
        let earned = began.elapsed().as_secs_f64() * WRONG_PER_SECOND;
        assert!(allowed >= WRONG_BURST, "{allowed}");
        assert!(allowed <= WRONG_BURST + earned + 1.0, "{allowed}, {earned}");
    }
}
