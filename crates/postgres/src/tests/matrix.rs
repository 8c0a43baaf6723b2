//! Tables times statements: what is captured is what changed, and no statement fares otherwise than without us.
//!
//! Each message of the application goes to two databases that are the same but for our triggers, and must come to the
//! same. What changed is noted by row triggers of the test's own; which events follow is worked out from that by the
//! rules of `docs/capture.md`.

mod ancestors;
mod bytes;
mod documented;
mod foreign;
mod generated;
mod shapes;
mod stage;
mod statements;

use shapes::{Shape, shapes};
use stage::{Stage, server};
use statements::{kinds, reset};

/// The tables of `shapes`, in one database.
async fn stage(shapes: &[Shape], change: impl FnOnce(&mut dapper_core::InputConfig)) -> Stage {
    let mut sql = "DO $$ BEGIN CREATE ROLE matrix_clerk; EXCEPTION WHEN OTHERS THEN NULL; END $$;".to_owned();
    for shape in shapes {
        sql.push_str(&shape.create);
        sql.push_str(";\n");
    }
    sql.push_str(
        "DO $$ DECLARE n text; BEGIN
             FOR n IN SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$|oracle$)' LOOP
                 EXECUTE format('GRANT USAGE ON SCHEMA %1$s TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA %1$s TO PUBLIC', n);
             END LOOP; END $$",
    );
    let mut stage = Stage::on(server().await, &sql, |config| {
        config.options.insert("tables".into(), serde_json::json!(["*.*"]));
        config.options.insert("exclude".into(), serde_json::json!(["oracle.*"]));
        change(config);
    })
    .await;
    for shape in shapes {
        let key = shape.key.iter().map(|&column| column.to_owned()).collect();
        stage.keys.insert(shape.location.to_owned(), key);
    }
    stage
}

/// Runs every kind of statement on every table that `chosen` takes.
async fn run(chosen: impl Fn(usize) -> bool) {
    let shapes: Vec<Shape> =
        shapes().into_iter().enumerate().filter(|(at, _)| chosen(*at)).map(|(_, s)| s).collect();
    let mut stage = stage(&shapes, |config| {
        config.operations = Some(serde_json::from_str(r#"["create","update","delete","truncate"]"#).unwrap());
    })
    .await;
    let (mut wrong, mut cells, mut events) = (Vec::new(), 0, 0);
    for shape in &shapes {
        let tables = regex_of(shape);
        for kind in kinds(shape) {
            let mut found = Ok(());
            for step in reset(shape).iter().chain(&kind.steps) {
                if let Err(difference) = stage.step(0, step).await {
                    found = Err(difference);
                }
            }
            let verified = stage.verify(&tables).await;
            cells += 1;
            events += verified.as_ref().map_or(0, Vec::len);
            if let Err(difference) = found.and(verified) {
                let cut: String = difference.chars().take(1_500).collect();
                wrong.push(format!("{} × {}:\n{cut}", shape.title, kind.title));
            }
        }
    }
    eprintln!("{} tables, {cells} cells, {events} events", shapes.len());
    assert!(wrong.is_empty(), "{} of {cells} cells:\n{}", wrong.len(), wrong.join("\n\n"));
}

#[tokio::test]
async fn every_statement_on_every_table_first_half() {
    run(|at| at % 2 == 0).await;
}

#[tokio::test]
async fn every_statement_on_every_table_second_half() {
    run(|at| at % 2 == 1).await;
}

/// Matches the table and its partitions.
fn regex_of(shape: &Shape) -> String {
    let name = if shape.location.contains('.') {
        shape.location.to_owned()
    } else {
        format!("public.{}", shape.location)
    };
    let escaped: String = name
        .chars()
        .flat_map(|c| if c.is_alphanumeric() || c == '_' { vec![c] } else { vec!['.'] })
        .collect();
    format!("^{escaped}")
}
