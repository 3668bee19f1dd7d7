//! Signatures: Ed25519, ECDSA P-256 with SHA-256, RSA with SHA-256 by PSS or PKCS#1 v1.5.
//!
//! Sources: RFC 8032; FIPS 186-5 with signatures in DER, as OpenSSL and Node write them; RFC 8017,
//! PSS with a salt as long as the digest. All by aws-lc.
//!
//! Must never: parse a key per message, or show a private one.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_SHA256, VerificationAlgorithm,
};

/// RSA keys from this many bits on.
pub const RSA_BITS_MIN: usize = 2_048;
pub const RSA_BITS_MAX: usize = 4_096;

/// What a signing key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    Ed25519,
    P256,
    /// Of 2,048 to 4,096 bits.
    Rsa,
}

/// How a signature is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Ed25519,
    EcdsaP256,
    RsaPss,
    RsaPkcs1,
}

impl Scheme {
    pub const ALL: [Self; 4] = [Self::Ed25519, Self::EcdsaP256, Self::RsaPss, Self::RsaPkcs1];

    /// As it is named in bodies.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::EcdsaP256 => "ecdsa-p256-sha256",
            Self::RsaPss => "rsa-pss-sha256",
            Self::RsaPkcs1 => "rsa-pkcs1-sha256",
        }
    }

    /// As it stands in an envelope. Never changed, never used again for another.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ed25519 => 1,
            Self::EcdsaP256 => 2,
            Self::RsaPss => 3,
            Self::RsaPkcs1 => 4,
        }
    }

    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.name() == name)
    }

    pub fn of_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.code() == code)
    }

    pub const fn kind(self) -> KeyKind {
        match self {
            Self::Ed25519 => KeyKind::Ed25519,
            Self::EcdsaP256 => KeyKind::P256,
            Self::RsaPss | Self::RsaPkcs1 => KeyKind::Rsa,
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Ed25519 => &ED25519,
            Self::EcdsaP256 => &ECDSA_P256_SHA256_ASN1,
            Self::RsaPss => &RSA_PSS_2048_8192_SHA256,
            Self::RsaPkcs1 => &RSA_PKCS1_2048_8192_SHA256,
        }
    }
}

impl KeyKind {
    /// The scheme that is taken where none is asked for.
    pub const fn default_scheme(self) -> Scheme {
        match self {
            Self::Ed25519 => Scheme::Ed25519,
            Self::P256 => Scheme::EcdsaP256,
            Self::Rsa => Scheme::RsaPss,
        }
    }
}

enum Pair {
    Ed25519(Box<Ed25519KeyPair>),
    P256(Box<EcdsaKeyPair>),
    Rsa(Box<rsa::KeyPair>),
}

/// A private key with its public half, parsed once.
pub struct SigningKey {
    pair: Pair,
    public: VerifyingKey,
    /// SubjectPublicKeyInfo, DER.
    spki: Vec<u8>,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey")
            .field("kind", &self.kind())
            .finish_non_exhaustive()
    }
}

/// A key that cannot be used, or a library that failed. Says nothing about the key's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    #[error(
        "is no private key in PKCS#8 of the kinds Ed25519, EC P-256, or RSA with {RSA_BITS_MIN} to {RSA_BITS_MAX} bits"
    )]
    Key,
    #[error("is an RSA key of {bits} bits; {RSA_BITS_MIN} to {RSA_BITS_MAX} are taken")]
    RsaBits { bits: usize },
    #[error("the scheme does not belong to this kind of key")]
    Scheme,
    #[error("the signature could not be made")]
    Failed,
}

impl SigningKey {
    /// From PKCS#8, unencrypted, DER.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, SignError> {
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            let public = pair.public_key();
            let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(public).map_err(|_| SignError::Key)?;
            let keys = VerifyingKey::new(KeyKind::Ed25519, public.as_ref())?;
            let spki = spki.as_ref().to_vec();
            return Ok(Self::of(Pair::Ed25519(Box::new(pair)), keys, spki));
        }
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der) {
            let public = pair.public_key();
            let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(public).map_err(|_| SignError::Key)?;
            let keys = VerifyingKey::new(KeyKind::P256, public.as_ref())?;
            let spki = spki.as_ref().to_vec();
            return Ok(Self::of(Pair::P256(Box::new(pair)), keys, spki));
        }
        let pair = rsa::KeyPair::from_pkcs8(der).map_err(|_| SignError::Key)?;
        let bits = pair.public_modulus_len() * 8;
        if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
            return Err(SignError::RsaBits { bits });
        }
        let public = pair.public_key();
        let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(public).map_err(|_| SignError::Key)?;
        let keys = VerifyingKey::new(KeyKind::Rsa, public.as_ref())?;
        let spki = spki.as_ref().to_vec();
        Ok(Self::of(Pair::Rsa(Box::new(pair)), keys, spki))
    }

    fn of(pair: Pair, public: VerifyingKey, spki: Vec<u8>) -> Self {
        Self { pair, public, spki }
    }

    pub fn kind(&self) -> KeyKind {
        self.public.kind
    }

    /// As people call it: `ed25519`, `p256`, `rsa3072`.
    pub fn name(&self) -> String {
        match &self.pair {
            Pair::Ed25519(_) => "ed25519".into(),
            Pair::P256(_) => "p256".into(),
            Pair::Rsa(pair) => format!("rsa{}", pair.public_modulus_len() * 8),
        }
    }

    /// The public half: SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    pub fn public(&self) -> &VerifyingKey {
        &self.public
    }

    /// Signs a message. Ed25519 and PKCS#1 give the same bytes each time, the others do not.
    pub fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let random = SystemRandom::new();
        let failed = |_| SignError::Failed;
        match (&self.pair, scheme) {
            (Pair::Ed25519(pair), Scheme::Ed25519) => {
                let signature = pair.try_sign(message).map_err(failed)?;
                Ok(signature.as_ref().to_vec())
            }
            (Pair::P256(pair), Scheme::EcdsaP256) => {
                let signature = pair.sign(&random, message).map_err(failed)?;
                Ok(signature.as_ref().to_vec())
            }
            (Pair::Rsa(pair), Scheme::RsaPss) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PSS_SHA256, &random, message, &mut signature)
                    .map_err(failed)?;
                Ok(signature)
            }
            (Pair::Rsa(pair), Scheme::RsaPkcs1) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .map_err(failed)?;
                Ok(signature)
            }
            _ => Err(SignError::Scheme),
        }
    }
}

/// A public key, parsed once for each scheme of its kind.
pub struct VerifyingKey {
    kind: KeyKind,
    schemes: Vec<(Scheme, ParsedPublicKey)>,
}

impl std::fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifyingKey")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl VerifyingKey {
    /// `public`: the raw key (Ed25519: 32 bytes; P-256: the point; RSA: PKCS#1 DER), or
    /// SubjectPublicKeyInfo.
    pub fn new(kind: KeyKind, public: &[u8]) -> Result<Self, SignError> {
        let schemes = Scheme::ALL.into_iter().filter(|s| s.kind() == kind);
        let parsed = schemes.map(|scheme| {
            let key = ParsedPublicKey::new(scheme.verification(), public);
            key.map(|key| (scheme, key)).map_err(|_| SignError::Key)
        });
        let schemes = parsed.collect::<Result<_, _>>()?;
        Ok(Self { kind, schemes })
    }

    /// Whether the signature is the key's. A scheme of another kind never is.
    pub fn check(&self, scheme: Scheme, message: &[u8], signature: &[u8]) -> bool {
        let mut schemes = self.schemes.iter();
        schemes.any(|(own, key)| *own == scheme && key.verify_sig(message, signature).is_ok())
    }
}

/// Makes a new private key: PKCS#8, DER. `bits` counts for RSA alone: 2,048, 3,072 or 4,096.
pub fn generate(kind: KeyKind, bits: usize) -> Result<zeroize::Zeroizing<Vec<u8>>, SignError> {
    use aws_lc_rs::encoding::Pkcs8V1Der;
    let failed = |_| SignError::Failed;
    let random = SystemRandom::new();
    let der = match kind {
        // Version 1, which OpenSSL reads: without the public key.
        KeyKind::Ed25519 => Ed25519KeyPair::generate_pkcs8v1(&random)
            .map_err(failed)?
            .as_ref()
            .to_vec(),
        KeyKind::P256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
            .map_err(failed)?
            .as_ref()
            .to_vec(),
        KeyKind::Rsa => {
            let size = match bits {
                2_048 => rsa::KeySize::Rsa2048,
                3_072 => rsa::KeySize::Rsa3072,
                4_096 => rsa::KeySize::Rsa4096,
                bits => return Err(SignError::RsaBits { bits }),
            };
            let pair = rsa::KeyPair::generate(size).map_err(failed)?;
            let der: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
            der.as_ref().to_vec()
        }
    };
    Ok(der.into())
}
