//! Pictures of a graph as text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use dapper_core::Input;

use crate::builder::ProcessNode;

/// The names and links of a graph, sorted, so that equal graphs give equal pictures.
#[derive(Debug)]
pub(crate) struct Diagram {
    inputs: Vec<String>,
    processes: Vec<String>,
    links: Vec<(String, String)>,
}

impl Diagram {
    pub(crate) fn new(
        inputs: &[Arc<dyn Input>],
        processes: &[ProcessNode],
        links: &[(String, String)],
    ) -> Self {
        let mut inputs: Vec<String> = inputs.iter().map(|input| input.id().to_owned()).collect();
        let mut processes: Vec<String> = processes.iter().map(|node| node.process.id().to_owned()).collect();
        let mut links = links.to_vec();
        inputs.sort();
        processes.sort();
        links.sort();
        Self { inputs, processes, links }
    }

    pub(crate) fn inputs(&self) -> &[String] {
        &self.inputs
    }

    pub(crate) fn processes(&self) -> &[String] {
        &self.processes
    }

    pub(crate) fn links(&self) -> &[(String, String)] {
        &self.links
    }

    pub(crate) fn mermaid(&self) -> String {
        let text = |name: &str| name.replace('&', "&amp;").replace('"', "&quot;");
        let mut out = String::from("flowchart LR\n");
        let node = |out: &mut String, key: &str, open: &str, name: &str, close: &str| {
            let _ = writeln!(out, "    {key}{open}\"{}\"{close}", text(name));
        };
        self.nodes(&mut out, &node, ["([", "])"], ["[", "]"]);
        let keys = self.keys();
        for (from, to) in &self.links {
            let _ = writeln!(out, "    {} --> {}", keys[from.as_str()], keys[to.as_str()]);
        }
        out
    }

    pub(crate) fn dot(&self) -> String {
        let text = |name: &str| name.replace('\\', "\\\\").replace('"', "\\\"");
        let mut out = String::from("digraph pipeline {\n    rankdir=LR;\n");
        let node = |out: &mut String, key: &str, shape: &str, name: &str, _: &str| {
            let _ = writeln!(out, "    {key} [shape={shape}, label=\"{}\"];", text(name));
        };
        self.nodes(&mut out, &node, ["ellipse", ""], ["box", ""]);
        let keys = self.keys();
        for (from, to) in &self.links {
            let _ = writeln!(out, "    {} -> {};", keys[from.as_str()], keys[to.as_str()]);
        }
        out.push_str("}\n");
        out
    }

    /// A tree below each input. A process that several lead to is drawn out once and named again elsewhere.
    pub(crate) fn terminal(&self) -> String {
        let mut out = String::new();
        let mut drawn = BTreeSet::new();
        for input in &self.inputs {
            let _ = writeln!(out, "{}", printable(input));
            self.branch(&mut out, input, "", &mut drawn);
        }
        for process in
            self.processes.iter().filter(|process| !drawn.contains(process.as_str())).collect::<Vec<_>>()
        {
            if drawn.insert(process.as_str()) {
                let _ = writeln!(out, "{}  (no input leads to it)", printable(process));
                self.branch(&mut out, process, "", &mut drawn);
            }
        }
        out
    }

    fn branch<'d>(&'d self, out: &mut String, from: &str, indent: &str, drawn: &mut BTreeSet<&'d str>) {
        let next: Vec<&str> =
            self.links.iter().filter(|(it, _)| it == from).map(|(_, to)| to.as_str()).collect();
        for (index, to) in next.iter().enumerate() {
            let (edge, below) =
                if index + 1 == next.len() { ("└─▶ ", "    ") } else { ("├─▶ ", "│   ") };
            let is_first = drawn.insert(to);
            let again = !is_first && self.links.iter().any(|(from, _)| from == to);
            let _ =
                writeln!(out, "{indent}{edge}{}{}", printable(to), if again { "  (as above)" } else { "" });
            if is_first {
                self.branch(out, to, &format!("{indent}{below}"), drawn);
            }
        }
    }

    fn nodes(
        &self,
        out: &mut String,
        node: &dyn Fn(&mut String, &str, &str, &str, &str),
        input: [&str; 2],
        process: [&str; 2],
    ) {
        for (index, name) in self.inputs.iter().enumerate() {
            node(out, &format!("i{index}"), input[0], name, input[1]);
        }
        for (index, name) in self.processes.iter().enumerate() {
            node(out, &format!("p{index}"), process[0], name, process[1]);
        }
    }

    fn keys(&self) -> BTreeMap<&str, String> {
        let inputs = self.inputs.iter().enumerate().map(|(index, name)| (name.as_str(), format!("i{index}")));
        let processes = self.processes.iter().enumerate();
        inputs.chain(processes.map(|(index, name)| (name.as_str(), format!("p{index}")))).collect()
    }
}

/// A name without what would steer a terminal.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn diagram() -> Diagram {
        Diagram {
            inputs: vec!["orders_input".into()],
            processes: vec!["audit".into(), r#"say "hi""#.into()],
            links: vec![("audit".into(), r#"say "hi""#.into()), ("orders_input".into(), "audit".into())],
        }
    }

    #[test]
    fn mermaid() {
        expect![[r#"
            flowchart LR
                i0(["orders_input"])
                p0["audit"]
                p1["say &quot;hi&quot;"]
                p0 --> p1
                i0 --> p0
        "#]]
        .assert_eq(&diagram().mermaid());
    }

    #[test]
    fn dot() {
        expect![[r#"
            digraph pipeline {
                rankdir=LR;
                i0 [shape=ellipse, label="orders_input"];
                p0 [shape=box, label="audit"];
                p1 [shape=box, label="say \"hi\""];
                p0 -> p1;
                i0 -> p0;
            }
        "#]]
        .assert_eq(&diagram().dot());
    }

    #[test]
    fn terminal() {
        let link = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        let diagram = Diagram {
            inputs: vec!["orders".into(), "stock".into()],
            processes: ["audit", "bill", "lost\u{1b}[2J", "notify", "ship"].map(Into::into).into(),
            links: vec![
                link("bill", "notify"),
                link("orders", "audit"),
                link("orders", "bill"),
                link("orders", "ship"),
                link("ship", "bill"),
                link("stock", "audit"),
            ],
        };
        expect![[r"
            orders
            ├─▶ audit
            ├─▶ bill
            │   └─▶ notify
            └─▶ ship
                └─▶ bill  (as above)
            stock
            └─▶ audit
            lost�[2J  (no input leads to it)
        "]]
        .assert_eq(&diagram.terminal());
    }
}
