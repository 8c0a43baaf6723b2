//! Bad texts, and what is said of them.

use dapper_payload::parse;
use expect_test::{Expect, expect};

#[allow(clippy::needless_pass_by_value)] // `expect![[…]]` is written in place.
fn check(text: &str, expected: Expect) {
    let error = parse(text).unwrap_err();
    assert!(text[error.offset()..].starts_with(error.offending()), "{text} {error:?}");
    expected.assert_eq(&error.to_string());
}

#[test]
fn garbage() {
    check(
        "some bollocks",
        expect![[
            r#"the payload is not valid JSON at byte 0, near "some bollocks"; send a JSON object such as {"tbl":"orders","id":42,"op":"INSERT"}"#
        ]],
    );
}

#[test]
fn nothing() {
    check(
        "",
        expect![[
            r#"the payload is not valid JSON at byte 0, the end of the text; send a JSON object such as {"tbl":"orders","id":42,"op":"INSERT"}"#
        ]],
    );
}

#[test]
fn an_early_end() {
    check(
        "{\"tbl\": \"t\",\n \"id\": ",
        expect![[
            r#"the payload is not valid JSON at byte 20, the end of the text; send a JSON object such as {"tbl":"orders","id":42,"op":"INSERT"}"#
        ]],
    );
}

#[test]
fn a_bad_token_on_a_later_line() {
    check(
        "{\"tbl\": \"é\",\r\n\n \"id\": 4x2, \"op\": \"INSERT\"}",
        expect![[
            r#"the payload is not valid JSON at byte 24, near "x2, \"op\": \"INSERT\"}"; send a JSON object such as {"tbl":"orders","id":42,"op":"INSERT"}"#
        ]],
    );
}

#[test]
fn more_behind_the_object() {
    check(
        r#"{"tbl": "t", "id": 1, "op": "INSERT"} {}"#,
        expect![[
            r#"the payload is not valid JSON at byte 38, near "{}"; send a JSON object such as {"tbl":"orders","id":42,"op":"INSERT"}"#
        ]],
    );
}

#[test]
fn a_line_break_in_a_string() {
    check(
        "{\"tbl\": \"a\nb\"}",
        expect![[
            r#"the payload is not valid JSON at byte 10, near "\nb\"}"; send a JSON object such as {"tbl":"orders","id":42,"op":"INSERT"}"#
        ]],
    );
}

#[test]
fn a_syntax_error_inside_an_ignored_field() {
    check(
        r#"{"v": [1,,2], "tbl": "t"}"#,
        expect![[
            r#"the payload is not valid JSON at byte 9, near ",2], \"tbl\": \"t\"}"; send a JSON object such as {"tbl":"orders","id":42,"op":"INSERT"}"#
        ]],
    );
}

#[test]
fn a_syntax_error_inside_the_ids() {
    check(
        r#"{"tbl": "t", "ids": [1, 2 3]}"#,
        expect![[
            r#"the payload is not valid JSON at byte 26, near "3]}"; send a JSON object such as {"tbl":"orders","id":42,"op":"INSERT"}"#
        ]],
    );
}

#[test]
fn a_key_that_is_no_string() {
    check(
        r#"{tbl: "t"}"#,
        expect![[
            r#"the payload is not valid JSON at byte 1, near "tbl: \"t\"}"; send a JSON object such as {"tbl":"orders","id":42,"op":"INSERT"}"#
        ]],
    );
}

#[test]
fn other_json() {
    check(
        " [1, 2] ",
        expect![[
            r#"the payload is not a JSON object at byte 1, near "[1, 2]"; send one such as {"tbl":"orders","id":42,"op":"INSERT"}"#
        ]],
    );
    check(
        "\n\"some bollocks\"",
        expect![[
            r#"the payload is not a JSON object at byte 1, near "\"some bollocks\""; send one such as {"tbl":"orders","id":42,"op":"INSERT"}"#
        ]],
    );
}

#[test]
fn no_table() {
    check(
        r#" {"id": 1, "op": "INSERT"}"#,
        expect![[
            r#""tbl" is missing in the object at byte 1, near "{\"id\": 1, \"op\": \"INSERT\"}"; add it"#
        ]],
    );
    check(
        r#"{"id": 1, "op": "INSERT", "tbl": null}"#,
        expect![[
            r#""tbl" is missing in the object at byte 0, near "{\"id\": 1, \"op\": \"INSERT\", \"tbl\": null}"; add it"#
        ]],
    );
}

#[test]
fn no_operation() {
    check(
        r#"{"tbl": "t", "id": 1}"#,
        expect![[r#""op" is missing in the object at byte 0, near "{\"tbl\": \"t\", \"id\": 1}"; add it"#]],
    );
}

#[test]
fn an_unknown_operation() {
    check(
        r#"{"tbl": "t", "id": 1, "op":   "new", "x": 1}"#,
        expect![[
            r#"unknown operation in "op" at byte 30, near "\"new\""; use one of INSERT (CREATE), UPDATE, DELETE (REMOVE), TRUNCATE"#
        ]],
    );
    check(
        r#"{"tbl": "t", "id": 1, "op": ""}"#,
        expect![[
            r#"unknown operation in "op" at byte 28, near "\"\""; use one of INSERT (CREATE), UPDATE, DELETE (REMOVE), TRUNCATE"#
        ]],
    );
}

#[test]
fn wrong_types() {
    check(
        r#"{"tbl": 1, "op": "INSERT"}"#,
        expect![[r#""tbl" holds something other than a string at byte 8, near "1"; correct the value"#]],
    );
    check(
        r#"{"tbl": "t", "op": ["INSERT"]}"#,
        expect![[
            r#""op" holds something other than a string at byte 19, near "[\"INSERT\"]"; correct the value"#
        ]],
    );
    check(
        r#"{"tbl": "t", "op": "INSERT", "schema": {}}"#,
        expect![[r#""schema" holds something other than a string at byte 39, near "{}"; correct the value"#]],
    );
    check(
        r#"{"tbl": "t", "op": "INSERT", "id": [1]}"#,
        expect![[
            r#""id" holds something other than a string, a number, true, false or null at byte 35, near "[1]"; correct the value"#
        ]],
    );
    check(
        r#"{"tbl": "t", "op": "INSERT", "key": "id"}"#,
        expect![[
            r#""key" holds something other than an array at byte 36, near "\"id\""; correct the value"#
        ]],
    );
    check(
        r#"{"tbl": "t", "op": "INSERT", "key": ["a", 1], "ids": []}"#,
        expect![[r#""key" holds something other than a string at byte 42, near "1"; correct the value"#]],
    );
    check(
        r#"{"tbl": "t", "op": "INSERT", "ids" : {"a": 1}}"#,
        expect![[
            r#""ids" holds something other than an array at byte 37, near "{\"a\": 1}"; correct the value"#
        ]],
    );
    check(
        r#"{"tbl": "t", "op": "INSERT", "ids": [null], "new": [7]}"#,
        expect![[
            r#""new" holds something other than objects and nulls at byte 52, near "7"; correct the value"#
        ]],
    );
}

#[test]
fn duplicate_fields() {
    check(
        r#"{"tbl": "t", "op": "INSERT", "id": 1, "id": 2}"#,
        expect![[r#""id" is given a second time at byte 38, near "\"id\""; give it once"#]],
    );
    check(
        r#"{"tbl": "t", "op": "INSERT", "ids": null, "\u0069ds": []}"#,
        expect![[r#""ids" is given a second time at byte 42, near "\"\\u0069ds\""; give it once"#]],
    );
}

#[test]
fn duplicate_key_columns() {
    check(
        r#"{"tbl": "t", "op": "INSERT", "key": ["a", "b", "\u0061"], "ids": []}"#,
        expect![[r#""key" names a column a second time at byte 47, near "\"\\u0061\""; give it once"#]],
    );
}

#[test]
fn strings_without_content() {
    check(
        r#"{"tbl": "\ud800", "op": "INSERT"}"#,
        expect![[
            r#""tbl" holds a string with an escape that stands for no character at byte 8, near "\"\\ud800\""; write surrogates in pairs"#
        ]],
    );
    check(
        r#"{"tbl": "t", "op": "INSERT", "id": "a\udc00"}"#,
        expect![[
            r#""id" holds a string with an escape that stands for no character at byte 35, near "\"a\\udc00\""; write surrogates in pairs"#
        ]],
    );
    check(
        r#"{"tbl": "t", "op": "INSERT", "key": ["k"], "ids": ["b", "a\udc00"]}"#,
        expect![[
            r#""ids" holds a string with an escape that stands for no character at byte 56, near "\"a\\udc00\""; write surrogates in pairs"#
        ]],
    );
}

#[test]
fn id_and_ids() {
    check(
        r#"{"tbl": "t", "op": "INSERT", "ids": [null], "id": 1}"#,
        expect![[
            r#"both "id" and "ids" are given at byte 36, near "[null], \"id\": 1}"; give "id" for one row, "ids" for several"#
        ]],
    );
}

#[test]
fn key_columns_without_ids() {
    check(
        r#"{"tbl": "t", "op": "INSERT", "key": ["a"]}"#,
        expect![[
            r#""ids" is missing in the object at byte 0, near "{\"tbl\": \"t\", \"op\": \"INSERT\", \"key\": [\"a\""; give one element per changed row, or leave "key" out"#
        ]],
    );
    check(
        r#"{"tbl": "t", "op": "INSERT", "key": ["a"], "id": 1}"#,
        expect![[
            r#""ids" is missing in the object at byte 0, near "{\"tbl\": \"t\", \"op\": \"INSERT\", \"key\": [\"a\""; give one element per changed row, or leave "key" out"#
        ]],
    );
}

#[test]
fn ids_that_do_not_fit_the_key() {
    check(
        r#"{"tbl": "t", "op": "INSERT", "ids": [null, 1]}"#,
        expect![[
            r#""ids" holds something other than null, as there is no "key" at byte 43, near "1"; correct the value"#
        ]],
    );
    check(
        r#"{"tbl": "t", "op": "INSERT", "key": ["a", "b"], "ids": [[1, 2], 3]}"#,
        expect![[
            r#""ids" holds something other than arrays of one value per key column at byte 64, near "3"; correct the value"#
        ]],
    );
    check(
        r#"{"tbl": "t", "op": "INSERT", "key": ["a", "b"], "ids": [[1, 2], [1, [2, 3], {}]]}"#,
        expect![[
            r#"an element of "ids" holds 3 values for 2 key columns at byte 64, near "[1, [2, 3], {}]"; give one value per key column, in the order of "key""#
        ]],
    );
    check(
        r#"{"tbl": "t", "op": "INSERT", "key": ["a", "b"], "ids": [[]]}"#,
        expect![[
            r#"an element of "ids" holds 0 values for 2 key columns at byte 56, near "[]"; give one value per key column, in the order of "key""#
        ]],
    );
}

#[test]
fn images_that_do_not_fit_the_rows() {
    check(
        r#"{"tbl": "t", "op": "UPDATE", "ids": [null, null], "new" :  [{}]}"#,
        expect![[
            r#""new" has 1 elements for 2 changed rows at byte 59, near "[{}]}"; give one object or null per changed row"#
        ]],
    );
    check(
        r#"{"tbl": "t", "op": "UPDATE", "id": 1, "old": []}"#,
        expect![[
            r#""old" has 0 elements for 1 changed rows at byte 45, near "[]}"; give one object or null per changed row"#
        ]],
    );
}

#[test]
fn truncate_with_rows() {
    check(
        r#"{"tbl": "t", "op": "TRUNCATE", "id": 1}"#,
        expect![[
            r#"TRUNCATE comes with "id" at byte 37, near "1"; leave it out: TRUNCATE speaks of the whole table"#
        ]],
    );
    check(
        r#"{"tbl": "t", "op": "TRUNCATE", "ids": [null]}"#,
        expect![[
            r#"TRUNCATE comes with "ids" at byte 38, near "[null]}"; leave it out: TRUNCATE speaks of the whole table"#
        ]],
    );
    check(
        r#"{"tbl": "t", "op": "TRUNCATE", "new": [{}]}"#,
        expect![[
            r#"TRUNCATE comes with "new" at byte 38, near "[{}]}"; leave it out: TRUNCATE speaks of the whole table"#
        ]],
    );
}

#[test]
fn long_values_are_cut() {
    let text = format!(r#"{{"tbl": "t", "op": "{}"}}"#, "é".repeat(100));
    check(
        &text,
        expect![[
            r#"unknown operation in "op" at byte 19, near "\"ééééééééééééééééééééééééééééééééééééééé"; use one of INSERT (CREATE), UPDATE, DELETE (REMOVE), TRUNCATE"#
        ]],
    );
}
