//! The text of an election znode: Mesos' `MasterInfo` as JSON, read by its agents, proxies and DNS servers.
//!
//! Readers of Mesos skip keys that they don't know; `rpc_port` is ours.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use model::MasterInfo;
use serde_json::{Value, json};

/// Why a text does not tell of a master.
#[derive(Debug, thiserror::Error)]
pub enum MasterInfoError {
    #[error("not JSON")]
    Json(#[source] serde_json::Error),
    #[error("names no address: neither address.ip and address.port, nor pid, nor ip and port")]
    Address,
}

/// As it stands in the znode.
pub fn to_json(info: &MasterInfo) -> Value {
    let capabilities: Vec<Value> = info
        .capabilities
        .iter()
        .map(|name| json!({ "type": name }))
        .collect();
    let mut value = json!({
        "address": { "hostname": info.hostname, "ip": info.ip.to_string(), "port": info.port },
        "capabilities": capabilities,
        "hostname": info.hostname,
        "id": info.id,
        "ip": number(info.ip),
        "pid": info.pid(),
        "port": info.port,
        "version": info.version,
    });
    if let (Some(port), Some(object)) = (info.rpc_port, value.as_object_mut()) {
        object.insert("rpc_port".into(), port.into());
    }
    value
}

/// What stands in a znode. Keys that are not known are skipped; of the three ways to tell an address the first that is there counts.
pub fn from_json(text: &[u8]) -> Result<MasterInfo, MasterInfoError> {
    let value: Value = serde_json::from_slice(text).map_err(MasterInfoError::Json)?;
    let at = address(&value).ok_or(MasterInfoError::Address)?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let hostname = text(&value["hostname"]).or_else(|| text(&value["address"]["hostname"]));
    let capabilities = value["capabilities"].as_array().into_iter().flatten();
    Ok(MasterInfo {
        id: text(&value["id"]).unwrap_or_default(),
        ip: at.ip(),
        port: at.port(),
        hostname: hostname.unwrap_or_else(|| at.ip().to_string()),
        version: text(&value["version"]).unwrap_or_default(),
        rpc_port: port(&value["rpc_port"]),
        capabilities: capabilities.filter_map(|one| text(&one["type"])).collect(),
    })
}

/// `in_addr.s_addr` read as a number, as Mesos does on the little-endian machines that it runs on: 127.0.0.1 is 16777343. An
/// IPv6 address has none.
fn number(ip: IpAddr) -> u32 {
    match ip {
        IpAddr::V4(ip) => u32::from_le_bytes(ip.octets()),
        IpAddr::V6(_) => 0,
    }
}

fn port(value: &Value) -> Option<u16> {
    value
        .as_u64()
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
}

fn address(value: &Value) -> Option<SocketAddr> {
    let modern = || {
        let ip = value["address"]["ip"].as_str()?.parse().ok()?;
        Some(SocketAddr::new(ip, port(&value["address"]["port"])?))
    };
    let pid = || value["pid"].as_str()?.rsplit('@').next()?.parse().ok();
    let old = || {
        let ip = u32::try_from(value["ip"].as_u64()?).ok().filter(|ip| *ip != 0)?;
        let ip = Ipv4Addr::from(ip.to_le_bytes());
        Some(SocketAddr::new(ip.into(), port(&value["port"])?))
    };
    modern().or_else(pid).or_else(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a Mesos 1.11 master.
    const MESOS: &str = r#"{"address":{"hostname":"m1.example","ip":"10.0.0.7","port":5050},
        "capabilities":[{"type":"AGENT_UPDATE"},{"type":"QUOTA_V2"}],"domain":{"fault_domain":{}},"hostname":"m1.example",
        "id":"7b1a","ip":117440522,"pid":"master@10.0.0.7:5050","port":5050,"version":"1.11.0"}"#;

    #[test]
    fn reads_what_mesos_writes_and_writes_what_it_reads() {
        let info = from_json(MESOS.as_bytes()).unwrap();
        assert_eq!(info.http().to_string(), "10.0.0.7:5050");
        assert_eq!(
            (info.pid().as_str(), info.rpc()),
            ("master@10.0.0.7:5050", info.http())
        );
        assert_eq!(info.capabilities, ["AGENT_UPDATE", "QUOTA_V2"]);
        let written = to_json(&info);
        let original: Value = serde_json::from_str(MESOS).unwrap();
        for key in written.as_object().unwrap().keys() {
            assert_eq!(written[key], original[key], "{key}");
        }
        assert_eq!(from_json(written.to_string().as_bytes()).unwrap(), info);
    }

    #[test]
    fn an_own_port_for_calls_survives() {
        let info = MasterInfo {
            rpc_port: Some(5055),
            ..from_json(MESOS.as_bytes()).unwrap()
        };
        assert_eq!(from_json(to_json(&info).to_string().as_bytes()).unwrap(), info);
        assert_eq!(info.rpc().port(), 5055);
    }

    #[test]
    fn an_address_is_taken_from_wherever_it_stands() {
        for text in [
            r#"{"pid":"master@10.0.0.7:5050"}"#,
            r#"{"ip":117440522,"port":5050}"#,
            r#"{"address":{"ip":"10.0.0.7","port":5050},"ip":1,"port":1}"#,
        ] {
            assert_eq!(
                from_json(text.as_bytes()).unwrap().http().to_string(),
                "10.0.0.7:5050"
            );
        }
        for text in [
            "",
            "{}",
            "[]",
            "7",
            r#"{"ip":117440522,"port":65536}"#,
            r#"{"ip":0,"port":5050}"#,
        ] {
            assert!(from_json(text.as_bytes()).is_err(), "{text}");
        }
    }
}
