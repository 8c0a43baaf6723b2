//! What no input may do: overflow the stack, or take for ever.

use dapper_payload::{MAX_KEY_COLUMNS, parse};

const DEPTH: usize = 100_000;

#[test]
fn deep_nesting_is_only_text() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[ {\"a\":", " } ] ")] {
        let nested = format!("{}1{}", open.repeat(DEPTH), close.repeat(DEPTH));
        let compacted = nested.replace(' ', "");
        assert_eq!(parse(&nested).unwrap_err().offset(), 0);

        let text = format!(r#"{{"tbl":"t","op":"INSERT","v":{nested},"key":["k"],"ids":[{nested}]}}"#);
        let payload = parse(&text).unwrap();
        let change = payload.changes().next().unwrap();
        assert_eq!(change.id(), compacted.trim());
        assert_eq!(change.key_json().unwrap().get(), format!("{{\"k\":{}}}", compacted.trim()));
        assert_eq!(parse(&payload.to_json()).unwrap().to_json(), payload.to_json());

        let text = format!(
            r#"{{"tbl":"t","op":"INSERT","key":["a","b"],"ids":[[{nested},2]],"new":[{{"x":{nested}}}]}}"#
        );
        let payload = parse(&text).unwrap();
        let change = payload.changes().next().unwrap();
        assert_eq!(change.id(), format!("[{},2]", compacted.trim()));
        assert_eq!(change.key_json().unwrap().get(), format!("{{\"a\":{},\"b\":2}}", compacted.trim()));
        assert!(change.new().unwrap().get().len() > DEPTH);
    }
}

#[test]
fn unclosed_nesting_is_an_error_at_the_end() {
    for prefix in ["", "{\"ids\":", "{\"v\":", "{\"tbl\":", "{\"new\":"] {
        let text = format!("{prefix}{}", "[".repeat(DEPTH));
        let error = parse(&text).unwrap_err();
        assert_eq!((error.offset(), error.offending()), (text.len(), ""), "{prefix}");
    }
}

#[test]
fn key_columns_are_bounded() {
    let text = |columns: usize| {
        let names: Vec<String> = (0..columns).map(|column| format!("\"c{column}\"")).collect();
        format!(r#"{{"tbl":"t","op":"INSERT","ids":[],"key":[{}]}}"#, names.join(","))
    };
    assert_eq!(parse(&text(MAX_KEY_COLUMNS)).unwrap().key_columns().len(), MAX_KEY_COLUMNS);
    let error = parse(&text(MAX_KEY_COLUMNS + 1)).unwrap_err();
    assert_eq!(error.offending(), "\"c1600\"");
}

#[test]
fn a_change_set_may_have_very_many_rows() {
    let ids: Vec<String> = (0..200_000).map(|id| id.to_string()).collect();
    let text = format!(r#"{{"tbl":"t","op":"INSERT","key":["id"],"ids":[{}]}}"#, ids.join(","));
    let payload = parse(&text).unwrap();
    assert_eq!(payload.changes().len(), ids.len());
    assert!(payload.changes().zip(&ids).all(|(change, id)| change.id() == *id));
}
