//! Passwords: what is refused as one, and argon2id for the others, a few at a time.

use std::sync::LazyLock;

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use tokio::sync::{Semaphore, SemaphorePermit};
use zeroize::Zeroizing;

/// Characters that a password has at least. NIST SP 800-63B asks for 8, and 15 where it stands alone; ours is between.
pub(crate) const PASSWORD_CHARS_MIN: usize = 12;
/// Bytes that are hashed at most: more costs time and gives nothing.
pub(crate) const PASSWORD_BYTES_MAX: usize = 256;
/// Hashes at a time: each takes 19 MiB and some tens of milliseconds of a core. Others wait for their turn.
const AT_A_TIME: usize = 2;

/// Hashes that are computed or wait for their turn: some seconds of work. Further ones are refused.
const QUEUE: usize = 64;

static TURN: Semaphore = Semaphore::const_new(AT_A_TIME);
static PLACES: Semaphore = Semaphore::const_new(QUEUE);

/// A place in the queue for [`verify`], to be kept until it has answered; none when it is full.
pub(crate) fn queue() -> Option<SemaphorePermit<'static>> {
    PLACES.try_acquire().ok()
}

/// Beginnings of secrets that everybody tries first, in lower case. Anything that is one of these and a few digits or
/// signs more is one too.
const KNOWN: [&str; 22] = [
    "password",
    "passw0rd",
    "admin",
    "administrator",
    "changeme",
    "changeit",
    "letmein",
    "welcome",
    "qwerty",
    "qwertyuiop",
    "iloveyou",
    "monkey",
    "dragon",
    "secret",
    "default",
    "example",
    "cameo",
    "cameoadmin",
    "test",
    "root",
    "correcthorsebatterystaple",
    "abc",
];

/// Why a text is no password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Weak {
    #[error("has at least {PASSWORD_CHARS_MIN} characters")]
    Short,
    #[error("has at most {PASSWORD_BYTES_MAX} bytes")]
    Long,
    #[error("is one of those that everybody tries first")]
    Known,
    #[error("contains the user's name")]
    Name,
    #[error("is the same few characters over and over")]
    Monotonous,
}

/// Checks a new password.
pub(crate) fn check(password: &str, user: &str) -> Result<(), Weak> {
    if password.chars().count() < PASSWORD_CHARS_MIN {
        // Also the short ones that are known: this says what to do.
        return Err(Weak::Short);
    }
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(Weak::Long);
    }
    let lower = password.to_lowercase();
    if user.chars().count() > 3 && lower.contains(&user.to_lowercase()) {
        return Err(Weak::Name);
    }
    let letters = lower.trim_matches(|c: char| !c.is_alphabetic());
    let plain: String = lower.chars().filter(|c| c.is_alphanumeric()).collect();
    let repeats = |known: &str| {
        !plain.is_empty() && plain.len().is_multiple_of(known.len()) && plain.replace(known, "").is_empty()
    };
    if letters.is_empty() && is_run(&lower)
        || KNOWN.iter().any(|known| letters == *known || plain == *known || repeats(known))
    {
        return Err(Weak::Known);
    }
    let mut distinct: Vec<char> = lower.chars().collect();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() < 5 {
        return Err(Weak::Monotonous);
    }
    Ok(())
}

/// Digits that count up or down: 1234567890123, 98765432109.
fn is_run(text: &str) -> bool {
    let digits: Vec<_> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    let steps = |step: u32| digits.windows(2).all(|pair| (pair[0] + step) % 10 == pair[1]);
    digits.len() == text.chars().count() && (steps(1) || steps(9))
}

/// Hashes a password for its record (a PHC string).
pub(crate) async fn hash(password: Zeroizing<String>) -> Result<String, String> {
    let _queued = queue().ok_or("too many passwords are being checked; try again in a moment")?;
    let _turn = TURN.acquire().await.map_err(|error| error.to_string())?;
    let hashing = tokio::task::spawn_blocking(move || {
        Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string()).map_err(|e| e.to_string())
    });
    hashing.await.unwrap_or_else(|error| Err(error.to_string()))
}

/// Whether this is the password of a record. Without a record it takes as long, and says no.
pub(crate) async fn verify(password: Zeroizing<String>, hashed: Option<String>) -> bool {
    if password.len() > PASSWORD_BYTES_MAX {
        return false;
    }
    let Ok(_turn) = TURN.acquire().await else { return false };
    let verifying = tokio::task::spawn_blocking(move || {
        let known = hashed.is_some();
        let against = hashed.as_deref().unwrap_or(&NOBODY);
        Argon2::default().verify_password(password.as_bytes(), against).is_ok() && known
    });
    verifying.await.unwrap_or(false)
}

/// What a name that does not exist is compared with, so that the answer takes as long.
static NOBODY: LazyLock<String> =
    LazyLock::new(|| Argon2::default().hash_password(b"nobody").map(|hash| hash.to_string()).unwrap_or_default());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_everybody_tries_first_is_refused() {
        for (password, reason) in [
            ("admin", Weak::Short),
            ("changeme", Weak::Short),
            ("Password1234", Weak::Known),
            ("password-2026!", Weak::Known),
            ("123456789012", Weak::Known),
            ("adminadminadmin", Weak::Known),
            ("CorrectHorseBatteryStaple", Weak::Known),
            ("my-name-is-margarete", Weak::Name),
            ("abababababab", Weak::Monotonous),
        ] {
            assert_eq!(check(password, "Margarete"), Err(reason), "{password}");
        }
        assert_eq!(check(&"äb1".repeat(90), "x"), Err(Weak::Long));
        assert_eq!(check("seven green bicycles", "Margarete"), Ok(()));
    }

    #[tokio::test]
    async fn a_hash_is_argon2id_with_a_salt_of_its_own() {
        let text = || Zeroizing::new("seven green bicycles".to_owned());
        let (first, second) = (hash(text()).await.unwrap(), hash(text()).await.unwrap());
        assert!(first.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && first != second, "{first}");
        assert!(verify(text(), Some(first.clone())).await);
        assert!(!verify(Zeroizing::new("seven green bicycle".to_owned()), Some(first)).await);
        assert!(!verify(Zeroizing::new("nobody".to_owned()), None).await, "nobody has no password");
        assert!(!verify(text(), Some("rubbish".into())).await);
    }
}
