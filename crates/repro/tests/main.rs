//! Every row is a test of its name: the naive version comes to harm, dapper does not.

#![allow(clippy::unwrap_used, reason = "a test that can't go on may panic")]

mod docs;

use dapper_repro::Row;

macro_rules! tests {
    ($($theme:ident::$row:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $row() {
                check(dapper_repro::$theme::$row(), stringify!($row)).await;
            }
        )*
    };
}

dapper_repro::for_each_row!(tests {});

async fn check(row: Row, function: &str) {
    assert_eq!(row.name, function.replace('_', "-"));
    let pair = (row.run)().await.unwrap();
    assert!(Row::is_shown(&pair), "naive: {}; dapper: {}", pair.naive, pair.ours);
}
