//! Who the brokers are to be, and who this program is to them: the fields of `[ingest.kafka]` that say so.
//!
//! Must never: send a password that others on the way can read; show one.

use std::path::Path;

use super::settings::RawKafka;

/// A mechanism, and whether it needs OpenSSL in the program.
const MECHANISMS: [(&str, bool); 3] = [
    ("SCRAM-SHA-512", true),
    ("SCRAM-SHA-256", true),
    ("PLAIN", false),
];

const HAS_OPENSSL: bool = cfg!(feature = "kafka-tls");

const WITHOUT_TLS: &str = "this program was built without OpenSSL, which librdkafka needs for it; build it with `cargo build --release -p offloop-cli --features kafka-tls`";

/// Properties that have a field of their own.
pub(super) const FIELDS: [(&str, &str); 10] = [
    ("sasl.mechanism", "mechanism"),
    ("sasl.mechanisms", "mechanism"),
    ("sasl.password", "password_env or password_file"),
    ("sasl.username", "user"),
    ("security.protocol", "tls and user"),
    ("ssl.ca.location", "ca_file"),
    ("ssl.certificate.location", "certificate_file"),
    ("ssl.key.location", "key_file"),
    ("ssl.keystore.location", "certificate_file and key_file"),
    ("ssl.keystore.password", "certificate_file and key_file"),
];

/// The properties that the fields mean. `add`: a field, and what is wrong with it.
pub(super) fn properties(
    raw: &RawKafka,
    folder: &Path,
    password: Option<&str>,
    add: &mut dyn FnMut(&str, String),
) -> Vec<(&'static str, String)> {
    let tls = raw.tls.unwrap_or(false);
    let mut out = Vec::new();
    if tls && !HAS_OPENSSL {
        add("tls", WITHOUT_TLS.into());
    }
    if tls && raw.ca_file.is_none() && HAS_OPENSSL {
        // Of the system, wherever it keeps them: the OpenSSL within the program knows of no place.
        out.push(("ssl.ca.location", "probe".into()));
    }
    let files = [
        ("ca_file", "ssl.ca.location", &raw.ca_file),
        (
            "certificate_file",
            "ssl.certificate.location",
            &raw.certificate_file,
        ),
        ("key_file", "ssl.key.location", &raw.key_file),
    ];
    for (field, property, file) in files {
        let Some(file) = file else { continue };
        if !tls {
            add(field, "is for TLS; say tls = true".into());
        } else if let Some(path) = readable(&folder.join(file), field, add)
            && HAS_OPENSSL
        {
            out.push((property, path));
        }
    }
    if raw.certificate_file.is_some() != raw.key_file.is_some() {
        let (there, missing) = if raw.key_file.is_some() {
            ("key_file", "certificate_file")
        } else {
            ("certificate_file", "key_file")
        };
        add(there, format!("says nothing without {missing}"));
    }
    let has_login = login(raw, tls, password, add, &mut out);
    let protocol = match (tls, has_login) {
        (true, true) => "sasl_ssl",
        (true, false) => "ssl",
        (false, true) => "sasl_plaintext",
        (false, false) => return out,
    };
    if HAS_OPENSSL || !tls {
        out.push(("security.protocol", protocol.into()));
    }
    out
}

fn readable(path: &Path, field: &str, add: &mut dyn FnMut(&str, String)) -> Option<String> {
    if let Err(error) = std::fs::File::open(path) {
        add(field, format!("cannot read {}: {error}", path.display()));
        return None;
    }
    let text = path.to_str();
    if text.is_none() {
        add(field, "its path is not UTF-8".into());
    }
    text.map(str::to_owned)
}

fn login(
    raw: &RawKafka,
    tls: bool,
    password: Option<&str>,
    add: &mut dyn FnMut(&str, String),
    out: &mut Vec<(&'static str, String)>,
) -> bool {
    let Some(user) = &raw.user else {
        let others = [
            ("password_env", raw.password_env.is_some()),
            ("password_file", raw.password_file.is_some()),
            ("mechanism", raw.mechanism.is_some()),
        ];
        for (field, is_given) in others {
            if is_given {
                add(field, "says nothing without user".into());
            }
        }
        return false;
    };
    if raw.password_env.is_none() && raw.password_file.is_none() {
        add(
            "user",
            "has no password: name the variable that holds it (password_env) or the file (password_file)".into(),
        );
    }
    let mechanism = raw.mechanism.as_deref().unwrap_or(MECHANISMS[0].0);
    let Some((_, needs_openssl)) = MECHANISMS.iter().find(|(name, _)| *name == mechanism) else {
        let names = MECHANISMS.map(|(name, _)| name).join(", ");
        add("mechanism", format!("`{mechanism}`; one of {names}"));
        return false;
    };
    if *needs_openssl && !HAS_OPENSSL {
        add("mechanism", format!("{mechanism}: {WITHOUT_TLS}"));
        return false;
    }
    if mechanism == "PLAIN" && !tls && !raw.brokers.split(',').all(is_loopback) {
        add(
            "mechanism",
            "PLAIN sends the password as it is, for everybody on the way to read; say tls = true"
                .into(),
        );
    }
    if let Some(password) = password {
        out.push(("sasl.password", password.to_owned()));
    }
    out.push(("sasl.username", user.clone()));
    out.push(("sasl.mechanism", mechanism.to_owned()));
    true
}

fn is_loopback(broker: &str) -> bool {
    let host = broker
        .trim()
        .rsplit_once(':')
        .map_or(broker, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with `[ingest.kafka]`, `FIELD: PROBLEM` each.
    fn problems(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("there.pem"), "a file").unwrap();
        let raw: RawKafka = toml::from_str(text).unwrap();
        let resolved = raw.resolve(folder.path(), Some("secret"));
        let told = |problem: &crate::target::TargetProblem| {
            let text = format!("{}: {}", problem.field, problem.problem);
            text.replace("ingest.kafka.", "")
        };
        resolved.map_or_else(|found| found.iter().map(told).collect(), |_| Vec::new())
    }

    #[test]
    fn what_does_not_fit_together_is_told_by_its_field() {
        let far = "brokers = \"kafka.example.org:9094\"\n";
        let table = [
            ("ca_file = \"there.pem\"", "ca_file: is for TLS"),
            (
                "user = \"me\"\nmechanism = \"PLAIN\"\ntls = true",
                "user: has no password",
            ),
            (
                "password_env = \"SECRET\"",
                "password_env: says nothing without user",
            ),
            (
                "mechanism = \"PLAIN\"",
                "mechanism: says nothing without user",
            ),
            (
                "user = \"me\"\npassword_env = \"SECRET\"\nmechanism = \"GSSAPI\"",
                "mechanism: `GSSAPI`; one of SCRAM-SHA-512, SCRAM-SHA-256, PLAIN",
            ),
            (
                "user = \"me\"\npassword_env = \"SECRET\"\nmechanism = \"PLAIN\"",
                "mechanism: PLAIN sends the password as it is",
            ),
            (
                "properties = { \"sasl.password\" = \"secret\" }",
                "properties.sasl.password: say password_env or password_file",
            ),
            (
                "properties = { \"security.protocol\" = \"ssl\" }",
                "properties.security.protocol: say tls and user",
            ),
        ];
        for (text, want) in table {
            let found = problems(&format!("{far}{text}"));
            assert!(
                found.iter().any(|told| told.starts_with(want)),
                "{want}: {found:?}"
            );
        }
        // Nobody is on the way.
        for near in ["localhost:9092", "127.0.0.1:9092", "[::1]:9092"] {
            let text = format!(
                "brokers = \"{near}\"\nuser = \"me\"\npassword_env = \"SECRET\"\nmechanism = \"PLAIN\""
            );
            assert_eq!(problems(&text), Vec::<String>::new());
        }
    }

    #[cfg(feature = "kafka-tls")]
    #[test]
    fn files_are_looked_for_where_the_configuration_is() {
        let far = "brokers = \"kafka.example.org:9094\"\ntls = true\n";
        let good =
            "ca_file = \"there.pem\"\ncertificate_file = \"there.pem\"\nkey_file = \"there.pem\"";
        assert_eq!(problems(&format!("{far}{good}")), Vec::<String>::new());
        let found = problems(&format!("{far}{}", good.replacen("there", "missing", 1)));
        assert!(found[0].starts_with("ca_file: cannot read "), "{found:?}");
        let found = problems(&format!("{far}key_file = \"there.pem\""));
        assert_eq!(found, ["key_file: says nothing without certificate_file"]);
    }

    #[cfg(not(feature = "kafka-tls"))]
    #[test]
    fn a_program_without_openssl_says_how_it_is_built() {
        let found = problems(
            "brokers = \"kafka.example.org:9094\"\ntls = true\nuser = \"me\"\npassword_env = \"SECRET\"",
        );
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found
                .iter()
                .all(|told| told.contains("--features kafka-tls")),
            "{found:?}"
        );
    }

    #[test]
    fn no_setting_shows_its_password() {
        let text = "brokers = \"localhost:9092\"\nuser = \"me\"\npassword_env = \"SECRET\"\nmechanism = \"PLAIN\"";
        let raw: RawKafka = toml::from_str(text).unwrap();
        let settings = raw.resolve(Path::new("."), Some("hidden words")).unwrap();
        let password = settings.client().get("sasl.password").map(str::to_owned);
        assert_eq!(password.as_deref(), Some("hidden words"));
        let shown = format!("{settings:?} {:?}", settings.client());
        assert!(!shown.contains("hidden words"), "{shown}");
    }
}
