//! Pictures of a graph as text.

use std::collections::BTreeMap;
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
}
