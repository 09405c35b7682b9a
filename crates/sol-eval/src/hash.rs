//! SHA-256, in hexadecimal digits.

use sha2::{Digest, Sha256};

/// Of bytes.
pub(crate) fn sha256(bytes: impl AsRef<[u8]>) -> String {
    digits(Sha256::new_with_prefix(bytes))
}

/// Of what went into a hash.
pub(crate) fn digits(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
