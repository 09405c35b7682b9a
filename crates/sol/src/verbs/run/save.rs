//! `/save`: a conversation in a file, whole or not at all.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use sol_engine::Message;

#[derive(Serialize)]
struct Conversation<'a> {
    model: &'a str,
    messages: &'a [Message],
}

/// Writes Markdown to `.md`, else JSON with the messages as the OpenAI API has them. A file that is there already is
/// replaced only if `overwrite` says so.
pub(super) fn save(path: &Path, model: &str, messages: &[Message], overwrite: bool) -> Result<()> {
    let is_markdown = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("md") || e.eq_ignore_ascii_case("markdown"));
    let mut text = if is_markdown {
        let turns = messages.iter().map(|m| format!("\n**{}**\n\n{}\n", m.role, m.content.trim_end()));
        format!("# Conversation with {model}\n{}", turns.collect::<String>())
    } else {
        serde_json::to_string_pretty(&Conversation { model, messages })?
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    if path.is_dir() {
        bail!("{} is a directory: give the name of a file", path.display());
    }
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = || format!("can not save to {}", path.display());
    let mut file = builder().tempfile_in(parent).with_context(failed)?;
    file.write_all(text.as_bytes()).with_context(failed)?;
    let kept = if overwrite { file.persist(path) } else { file.persist_noclobber(path) };
    match kept {
        Ok(_) => Ok(()),
        Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!("{} exists: /save! {} replaces it", path.display(), path.display())
        }
        Err(e) => Err(e.error).with_context(failed),
    }
}

/// Files as any program makes them, not the private ones of `tempfile`.
fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(OsStr::new(".solarium-"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder
}

/// `~/x` as a shell reads it.
pub(super) fn expand_home(text: &str) -> PathBuf {
    match (text.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_markdown_and_no_silent_overwriting() {
        let dir = tempfile::tempdir().unwrap();
        let messages = [Message::system("Be brief."), Message::user("Hi\n"), Message::assistant("Yes?")];

        let path = dir.path().join("a.json");
        save(&path, "tiny", &messages, false).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(value["messages"][2], serde_json::json!({ "role": "assistant", "content": "Yes?" }));

        let error = save(&path, "tiny", &messages[..1], false).unwrap_err().to_string();
        assert!(error.contains("/save! "), "{error}");
        save(&path, "tiny", &messages[..1], true).unwrap();
        assert!(!std::fs::read_to_string(&path).unwrap().contains("Yes?"));

        let path = dir.path().join("a.md");
        save(&path, "tiny", &messages[1..], false).unwrap();
        let expected = "# Conversation with tiny\n\n**user**\n\nHi\n\n**assistant**\n\nYes?\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside them");
    }

    #[test]
    fn places_that_can_not_be_written_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = format!("{:#}", save(&dir.path().join("no/such.json"), "m", &[], false).unwrap_err());
        assert!(error.contains("no/such.json"), "{error}");
        assert!(save(dir.path(), "m", &[], true).unwrap_err().to_string().contains("is a directory"));
    }
}
