//! A command line, taken apart into words.

/// The words of `text`, which blanks separate. Quotes, single or double, keep blanks in a word; a backslash outside of
/// single quotes stands for the character after it. Nothing is ever expanded.
///
/// # Errors
/// What is wrong with the text, to be said after its name.
pub fn split(text: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, blank) if blank.is_whitespace() => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (Some(open), _) if character == open => quote = None,
            (None | Some('"'), '\\') => {
                let escaped = characters.next().ok_or("ends in a backslash")?;
                word.get_or_insert_default().push(escaped);
            }
            _ => word.get_or_insert_default().push(character),
        }
    }
    if quote.is_some() {
        return Err("has a quote that is not closed");
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kept_together_by_quotes() {
        for (text, expected) in [
            ("", &[][..]),
            (" a  b\tc\n", &["a", "b", "c"]),
            ("a 'b c' \"d e\"", &["a", "b c", "d e"]),
            ("a'b'\"c\"d", &["abcd"]),
            ("'' \"\"", &["", ""]),
            (r#"a\ b 'a\b' "a\"b""#, &["a b", r"a\b", "a\"b"]),
            ("$HOME `x` *;|", &["$HOME", "`x`", "*;|"]),
            ("ä 'ö ü'", &["ä", "ö ü"]),
        ] {
            assert_eq!(split(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_closed_is_refused() {
        for text in ["'", "a \"b", "a 'b\\'c'"] {
            assert_eq!(split(text), Err("has a quote that is not closed"), "{text}");
        }
        assert_eq!(split("a \\"), Err("ends in a backslash"));
    }
}
