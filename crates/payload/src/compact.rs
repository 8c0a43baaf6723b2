//! Takes the whitespace out of JSON text.

use std::borrow::Cow;

/// `json` without the whitespace outside its strings; borrowed when there is none.
///
/// A single loop without recursion, so that no depth of nesting is too much.
pub(crate) fn compact(json: &str) -> Cow<'_, str> {
    let mut compacted: Option<String> = None;
    let mut kept_until = 0;
    let mut in_string = false;
    let mut escaped = false;
    for (index, byte) in json.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b' ' | b'\t' | b'\n' | b'\r' if !in_string => {
                let out = compacted.get_or_insert_with(|| String::with_capacity(json.len()));
                out.push_str(&json[kept_until..index]);
                kept_until = index + 1;
            }
            _ => {}
        }
    }
    match compacted {
        None => Cow::Borrowed(json),
        Some(mut out) => {
            out.push_str(&json[kept_until..]);
            Cow::Owned(out)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whitespace_outside_strings_goes() {
        for (json, expected) in [
            ("", ""),
            ("[1,\"x\"]", "[1,\"x\"]"),
            (" [ 1 ,\n\t\"x y\" ]\r\n", "[1,\"x y\"]"),
            (r#"{ "a \" b" : "\\" , "é \\\" ü" : 1 }"#, r#"{"a \" b":"\\","é \\\" ü":1}"#),
            ("\"a b", "\"a b"),
        ] {
            assert_eq!(compact(json), expected, "{json}");
        }
    }

    #[test]
    fn compact_text_is_borrowed() {
        assert!(matches!(compact(r#"{"a b":[1,2]}"#), Cow::Borrowed(_)));
    }
}
