//! Python's `str`, where Rust's differs.

/// `str.isspace` of a character: Unicode's White_Space and four separators.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.rstrip()`.
pub fn rstrip(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// `len(re.split(r"\s+", text))`: runs of space and one more.
pub fn pieces(text: &str) -> usize {
    let mut before = false;
    let begins = text.chars().filter(|&c| !std::mem::replace(&mut before, is_space(c)) && is_space(c)).count();
    begins + 1
}

/// Letters in title case, which are neither upper nor lower.
fn is_title(c: char) -> bool {
    matches!(
        u32::from(c),
        0x1c5 | 0x1c8 | 0x1cb | 0x1f2 | 0x1f88..=0x1f8f | 0x1f98..=0x1f9f | 0x1fa8..=0x1faf | 0x1fbc | 0x1fcc | 0x1ffc
    )
}

/// `str.isupper()`: there are upper-case letters, and no others that have a case.
pub fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(|c| c.is_lowercase() || is_title(c))
}

/// `str.islower()`.
pub fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(|c| c.is_uppercase() || is_title(c))
}

/// `str.capitalize()`: the first character in title case, the rest in lower case.
pub fn capitalize(text: &str) -> String {
    let mut rest = text.chars();
    let Some(first) = rest.next() else { return String::new() };
    // Four letters are digraphs with a title case of their own.
    let title = match first {
        'Ǆ'..='ǆ' => "ǅ".to_owned(),
        'Ǉ'..='ǉ' => "ǈ".to_owned(),
        'Ǌ'..='ǌ' => "ǋ".to_owned(),
        'Ǳ'..='ǳ' => "ǲ".to_owned(),
        first => {
            let mut upper = first.to_uppercase();
            upper.next().into_iter().chain(upper.flat_map(char::to_lowercase)).collect()
        }
    };
    title + &rest.as_str().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capitals_and_spaces_are_those_of_python() {
        assert_eq!(capitalize("hELLO World"), "Hello world");
        assert_eq!((capitalize("ßA"), capitalize("ǆX"), capitalize("")), ("Ssa".into(), "ǅx".into(), String::new()));
        assert_eq!((pieces(""), pieces("a"), pieces(" a  b\n")), (1, 1, 4));
        assert_eq!((strip("\u{1c} a \n"), rstrip(" a\u{1f}")), ("a", " a"));
    }
}
