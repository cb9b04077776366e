//! What would happen to a packet: the question and the answer.

use model::Fault;
use model::network::{PacketExplanation, PacketOrigin, PacketQuestion, Transport};

use crate::agent_capnp::packet_question::{self as wire, from};
use crate::bounds::{REPORT_LINES_MAX, TextBudget};
use crate::value::{enum_pair, optional_text, set_texts, text, texts, unknown};

enum_pair!(
    transport_to_wire,
    transport_from_wire,
    Transport,
    wire::Transport,
    [Tcp, Udp, Icmp]
);

pub fn encode(question: &PacketQuestion, mut builder: wire::Builder<'_>) {
    let mut origin = builder.reborrow().init_from();
    match &question.from {
        PacketOrigin::Outside => origin.set_outside(()),
        PacketOrigin::Host => origin.set_host(()),
        PacketOrigin::Container(name) => origin.set_container(name),
    }
    builder.set_transport(transport_to_wire(question.transport));
    if let Some(address) = question.destination {
        builder.set_destination(address.to_string());
    }
    builder.set_destination_port(question.destination_port);
    builder.set_source_port(question.source_port.unwrap_or(0));
}

pub fn decode(reader: wire::Reader<'_>) -> Result<PacketQuestion, Fault> {
    let budget = &mut TextBudget::default();
    let from = match reader.get_from().which() {
        Ok(from::Outside(())) => PacketOrigin::Outside,
        Ok(from::Host(())) => PacketOrigin::Host,
        Ok(from::Container(name)) => PacketOrigin::Container(text("from", name, budget)?),
        Err(new) => return Err(unknown("from", new)),
    };
    let destination = optional_text("destination", reader.get_destination(), budget)?;
    let address = |text: String| {
        text.parse()
            .map_err(|_| Fault::invalid("destination", format!("{text:?} is no IP address")))
    };
    Ok(PacketQuestion {
        from,
        transport: transport_from_wire("transport", reader.get_transport())?,
        destination: destination.map(address).transpose()?,
        destination_port: reader.get_destination_port(),
        source_port: Some(reader.get_source_port()).filter(|port| *port != 0),
    })
}

pub fn encode_answer(
    explanation: &PacketExplanation,
    mut builder: crate::agent_capnp::agent::explain_results::Builder<'_>,
) {
    builder.set_verdict(&explanation.verdict);
    let steps = builder.init_steps(explanation.steps.len() as u32);
    set_texts(explanation.steps.iter().map(String::as_str), steps);
}

pub fn decode_answer(
    reader: crate::agent_capnp::agent::explain_results::Reader<'_>,
) -> Result<PacketExplanation, Fault> {
    let budget = &mut TextBudget::default();
    Ok(PacketExplanation {
        verdict: text("verdict", reader.get_verdict(), budget)?,
        steps: texts("steps", reader.get_steps(), REPORT_LINES_MAX, budget)?,
    })
}
