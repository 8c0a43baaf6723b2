//! Good texts and what they mean.

use dapper_payload::{ChangeKind, Payload, parse};
use expect_test::{Expect, expect};
use serde_json::value::RawValue;

/// One line for the payload, one for each change, and the canonical text.
fn describe(payload: &Payload<'_>) -> String {
    use std::fmt::Write;
    let mut out = format!("{} {} {:?}\n", payload.kind(), payload.location(), payload.key_columns());
    for change in payload {
        let text = |value: Option<&str>| value.unwrap_or("-").to_owned();
        let key = change.key_json();
        writeln!(
            out,
            "id={:?} key={} old={} new={}",
            change.id(),
            text(key.as_deref().map(RawValue::get)),
            text(change.old().map(RawValue::get)),
            text(change.new().map(RawValue::get)),
        )
        .unwrap();
    }
    out + &payload.to_json()
}

#[allow(clippy::needless_pass_by_value)] // `expect![[…]]` is written in place.
fn check(text: &str, expected: Expect) {
    expected.assert_eq(&describe(&parse(text).unwrap()));
}

#[test]
fn the_ancestors_notifications() {
    for (text, kind, table, id) in [
        (r#"{"tbl": "tests", "id": 1, "op": "INSERT"}"#, ChangeKind::Insert, "tests", "1"),
        (r#"{"tbl": "tests", "id": 2, "op": "UPDATE"}"#, ChangeKind::Update, "tests", "2"),
        (r#"{"tbl": "tests", "id": 3, "op": "DELETE"}"#, ChangeKind::Delete, "tests", "3"),
        (r#"{"tbl": "tests", "op": "TRUNCATE"}"#, ChangeKind::Truncate, "tests", ""),
        (
            r#"{"op": "insert", "id": "an-id", "tbl": "more tests"}"#,
            ChangeKind::Insert,
            "more tests",
            "an-id",
        ),
    ] {
        let payload = parse(text).unwrap();
        let ids: Vec<_> = payload.changes().map(|change| change.id()).collect();
        assert_eq!((payload.kind(), &*payload.location(), &*ids), (kind, table, &[id.into()][..]), "{text}");
    }
    let error = parse("some bollocks").unwrap_err();
    assert_eq!((error.offset(), error.offending()), (0, "some bollocks"));
}

#[test]
fn a_notifications_id_is_any_scalar() {
    for (id, expected) in [
        ("42", "42"),
        ("-0.10e+007", "-0.10e+007"),
        ("123456789012345678901234567890.10", "123456789012345678901234567890.10"),
        ("true", "true"),
        ("false", "false"),
        ("null", ""),
        (r#""""#, ""),
        (r#""null""#, "null"),
        (r#""a \"b\" \u00e9\ud83d\ude00 \\""#, "a \"b\" é😀 \\"),
    ] {
        let text = format!(r#"{{"tbl":"t","id":{id},"op":"UPDATE"}}"#);
        let payload = parse(&text).unwrap();
        let change = payload.changes().next().unwrap();
        assert_eq!(change.id(), expected, "{text}");
        assert!(change.key_json().is_none());
    }
}

#[test]
fn a_notification_without_id() {
    check(
        r#"{"op": "remove", "tbl": "t", "schema": "public"}"#,
        expect![[r#"
        DELETE t []
        id="" key=- old=- new=-
        {"tbl":"t","op":"DELETE"}"#]],
    );
}

#[test]
fn one_key_column() {
    check(
        r#"{"tbl": "orders", "op": "create", "key": ["id"], "ids": [1, "x y", true, null, {"a": [1, 2]}, 1.50]}"#,
        expect![[r#"
            INSERT orders ["id"]
            id="1" key={"id":1} old=- new=-
            id="x y" key={"id":"x y"} old=- new=-
            id="true" key={"id":true} old=- new=-
            id="" key={"id":null} old=- new=-
            id="{\"a\":[1,2]}" key={"id":{"a":[1,2]}} old=- new=-
            id="1.50" key={"id":1.50} old=- new=-
            {"tbl":"orders","op":"INSERT","key":["id"],"ids":[1,"x y",true,null,{"a":[1,2]},1.50]}"#]],
    );
}

#[test]
fn several_key_columns() {
    check(
        r#" {"schema":"audit","tbl":"orders","op":"UPDATE","key":["a","b \"q\""],
            "ids":[[1, "x , y"],[ 12345678901234567890.10 ,{"z": [ ]}]]} "#,
        expect![[r#"
            UPDATE audit.orders ["a", "b \"q\""]
            id="[1,\"x , y\"]" key={"a":1,"b \"q\"":"x , y"} old=- new=-
            id="[12345678901234567890.10,{\"z\":[]}]" key={"a":12345678901234567890.10,"b \"q\"":{"z":[]}} old=- new=-
            {"schema":"audit","tbl":"orders","op":"UPDATE","key":["a","b \"q\""],"ids":[[1,"x , y"],[12345678901234567890.10,{"z":[]}]]}"#]],
    );
}

#[test]
fn no_key() {
    check(
        r#"{"tbl":"t","op":"DELETE","ids":[null,null],"old":[{"a": 1},{"a": 1}]}"#,
        expect![[r#"
        DELETE t []
        id="" key=- old={"a": 1} new=-
        id="" key=- old={"a": 1} new=-
        {"tbl":"t","op":"DELETE","ids":[null,null],"old":[{"a":1},{"a":1}]}"#]],
    );
}

#[test]
fn row_images() {
    check(
        r#"{"tbl":"t","op":"UPDATE","key":["id"],"ids":[1,2],"old":[{"id":1},null],"new":[null,{"id":2, "x":"a  b"}]}"#,
        expect![[r#"
            UPDATE t ["id"]
            id="1" key={"id":1} old={"id":1} new=-
            id="2" key={"id":2} old=- new={"id":2, "x":"a  b"}
            {"tbl":"t","op":"UPDATE","key":["id"],"ids":[1,2],"old":[{"id":1},null],"new":[null,{"id":2,"x":"a  b"}]}"#]],
    );
}

#[test]
fn truncate_is_one_change_without_id() {
    check(
        r#"{"schema":"s","tbl":"t","op":"truncate","key":["id"],"ids":[],"id":null,"old":null}"#,
        expect![[r#"
            TRUNCATE s.t ["id"]
            id="" key=- old=- new=-
            {"schema":"s","tbl":"t","op":"TRUNCATE","key":["id"]}"#]],
    );
}

#[test]
fn no_row() {
    check(
        r#"{"tbl":"t","op":"UPDATE","key":["id"],"ids":[],"new":[]}"#,
        expect![[r#"
        UPDATE t ["id"]
        {"tbl":"t","op":"UPDATE","key":["id"],"ids":[],"new":[]}"#]],
    );
    assert!(parse(r#"{"tbl":"t","op":"UPDATE","ids":[]}"#).unwrap().is_empty());
}

#[test]
fn null_is_left_out_and_unknown_fields_are_ignored() {
    check(
        r#"{"v":[{"tbl":"no"}],"schema":null,"tbl":"t","op":"INSERT","id":null,"key":null,"ids":null,"old":null,"new":null,"v":2}"#,
        expect![[r#"
            INSERT t []
            id="" key=- old=- new=-
            {"tbl":"t","op":"INSERT"}"#]],
    );
}

#[test]
fn names_may_be_escaped() {
    check(
        r#"{"\u0074bl":"\u0074\"","op":"in\u0073ert","schema":"a.b","key":["\n"],"ids":["\u0041"],"\ud800":1}"#,
        expect![[r#"
            INSERT a.b.t" ["\n"]
            id="A" key={"\n":"\u0041"} old=- new=-
            {"schema":"a.b","tbl":"t\"","op":"INSERT","key":["\n"],"ids":["\u0041"]}"#]],
    );
}
