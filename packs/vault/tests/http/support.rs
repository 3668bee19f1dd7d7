//! A whole server with its door on a free port, and a client that says nothing but what it is told.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use offloop::http::{Door, DoorConfig};
use offloop::{Builder, Server, ShutdownPlan};
use offloop_vault::keys::KeyName;
use offloop_vault::keys::make::{Algorithm, keygen};
use offloop_vault::{VaultOptions, VaultPack};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;

/// Nothing here takes as long.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct World {
    folder: TempDir,
    doors: tokio::runtime::Runtime,
    server: Option<Server>,
    close: Option<oneshot::Sender<()>>,
    address: SocketAddr,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (own, value) = line.split_once(':')?;
            own.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// 200, and its JSON.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// Status, name of the problem, and its first pointer.
    pub fn problem(&self) -> (u16, String, String) {
        let json = self.json();
        assert_eq!(json["status"], self.status, "{json}");
        let name = json["type"].as_str().unwrap();
        let name = name.strip_prefix("urn:offloop:problem:").unwrap();
        let field = json["field"].as_str().unwrap_or_default();
        (self.status, name.to_owned(), field.to_owned())
    }
}

impl World {
    /// With keys `documents` (aes256), `ed`, `p` and `rsa`.
    pub fn new() -> Self {
        Self::with(|options, keys| {
            for (name, algorithm) in [
                ("documents", Algorithm::Aes256),
                ("ed", Algorithm::Ed25519),
                ("p", Algorithm::P256),
                ("rsa", Algorithm::Rsa2048),
            ] {
                keygen(keys, &KeyName::parse(name).unwrap(), algorithm).unwrap();
            }
            options.keys = Some(keys.to_owned());
        })
    }

    pub fn with(prepare: impl FnOnce(&mut VaultOptions, &Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = VaultOptions {
            threads: Some(2),
            ..VaultOptions::default()
        };
        prepare(&mut options, &folder.path().join("keys"));
        // Eighteen of these servers share the machine: how hard pressed it is is not the question.
        let mut server = Builder::embedded(folder.path().join("data"))
            .pulse(None)
            .pack(VaultPack::new(options))
            .start()
            .unwrap();
        let doors = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let config = DoorConfig::new(([127, 0, 0, 1], 0).into());
        let listener = doors.block_on(Door::listen(&config)).unwrap();
        let address = listener.local_addr().unwrap();
        let door = server.door(config);
        let (close, closing) = oneshot::channel::<()>();
        doors.spawn(door.serve(listener, async {
            let _ = closing.await;
        }));
        Self {
            folder,
            doors,
            server: Some(server),
            close: Some(close),
            address,
        }
    }

    pub fn keys(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub fn request(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let _ = stream.write_all(body); // a refused one is not read to its end
        read(stream)
    }

    /// A JSON body.
    pub fn post(&self, path: &str, body: &str) -> Answer {
        let kind = "content-type: application/json\r\n";
        self.request("POST", path, kind, body.as_bytes())
    }

    /// A body of bytes.
    pub fn raw(&self, path: &str, headers: &str, body: &[u8]) -> Answer {
        let headers = format!("content-type: application/octet-stream\r\n{headers}");
        self.request("POST", path, &headers, body)
    }

    /// Sends half of what it promises, and closes its half of the connection.
    pub fn half(&self, path: &str) -> Answer {
        let mut stream = self.connect();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{{\"password\":\"cana"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        read(stream)
    }

    /// Ends the server in order; what it left is still there to be searched.
    pub fn end(&mut self) {
        drop(self.close.take());
        if let Some(server) = self.server.take() {
            let (_keep, force) = oneshot::channel();
            self.doors
                .block_on(server.shutdown(ShutdownPlan::default(), force));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.end();
    }
}

fn read(mut stream: TcpStream) -> Answer {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all); // a reset after the answer changes nothing of it
    let end = all
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("a head");
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    let status = head[9..12].parse().unwrap();
    let mut body = all[end + 4..].to_vec();
    if head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        panic!("answers have a length");
    }
    if body.is_empty() {
        body = b"null".to_vec();
    }
    Answer { status, head, body }
}

/// base64 of bytes.
pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    base64_simd::STANDARD.encode_to_string(bytes.as_ref())
}

pub fn unb64(value: &Value) -> Vec<u8> {
    base64_simd::STANDARD
        .decode_to_vec(value.as_str().unwrap())
        .unwrap()
}
