//! What a router tells of its UPnP: where its description is, and in it where ports are mapped.
//!
//! A description is XML from a stranger. It is only searched for the few elements that matter,
//! without entities, includes or nesting to get lost in.

use std::net::SocketAddr;

/// Longest path that is asked for.
const MAX_PATH: usize = 256;

/// The services that map ports, the best first. The second version can choose the port itself.
const SERVICES: [&str; 3] = [
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];

/// Where ports are mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Control {
    /// The path to call.
    pub(super) path: String,
    /// Whether it knows `AddAnyPortMapping`.
    pub(super) any_port: bool,
}

/// Where the description is, by an answer to the search. Only of the device that answered: it must
/// not have this node call others.
pub(super) fn location(answer: &[u8], from: SocketAddr) -> Option<(SocketAddr, String)> {
    let text = std::str::from_utf8(answer).ok()?;
    let location = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("location").then_some(value.trim())
    })?;
    let (at, path) = split(location)?;
    (at.ip() == from.ip()).then_some((at, path))
}

/// Where ports are mapped, by the description.
pub(super) fn control(description: &[u8], device: SocketAddr) -> Option<Control> {
    let text = String::from_utf8_lossy(description);
    SERVICES.iter().find_map(|wanted| {
        elements(&text, "service")
            .filter(|service| element(service, "serviceType") == Some(*wanted))
            .find_map(|service| {
                let url = element(service, "controlURL")?;
                let path = if url.starts_with("http://") {
                    let (at, path) = split(url)?;
                    (at.ip() == device.ip() && at.port() == device.port()).then_some(path)?
                } else if url.starts_with('/') {
                    path(url)?
                } else {
                    path(&format!("/{url}"))?
                };
                Some(Control { path, any_port: wanted.ends_with("IPConnection:2") })
            })
    })
}

/// The parts of `http://address:port/path`; names are not resolved.
pub(super) fn split(url: &str) -> Option<(SocketAddr, String)> {
    let rest = url.strip_prefix("http://")?;
    let (host, rest) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let at = match host.parse::<SocketAddr>() {
        Ok(at) => at,
        Err(_) => SocketAddr::new(host.parse().ok()?, 80),
    };
    (at.port() != 0).then_some(at).zip(path(rest))
}

/// A path that may be put into a request: no spaces or line ends, and not too long.
fn path(text: &str) -> Option<String> {
    let plain = text.len() <= MAX_PATH && text.bytes().all(|b| b.is_ascii_graphic());
    plain.then(|| text.replace("&amp;", "&"))
}

/// The text of each element of that name, in order; elements of the same name are not nested in
/// each other.
fn elements<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let (_, after) = rest.split_once(&open)?;
        let (inner, behind) = after.split_once(&close)?;
        rest = behind;
        Some(inner)
    })
}

fn element<'a>(text: &'a str, name: &'a str) -> Option<&'a str> {
    elements(text, name).next().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn service(kind: &str, control: &str) -> String {
        format!(
            "<service><serviceType>{kind}</serviceType><SCPDURL>/x</SCPDURL>\n\
             <controlURL> {control} </controlURL></service>"
        )
    }

    #[test]
    fn the_description_is_where_the_device_that_answered_says() {
        let answer =
            b"HTTP/1.1 200 OK\r\nST: x\r\nLocation: http://192.168.1.1:5000/root.xml\r\n\r\n";
        let found = location(answer, at("192.168.1.1:1900"));
        assert_eq!(found, Some((at("192.168.1.1:5000"), "/root.xml".to_owned())));
        assert_eq!(location(answer, at("192.168.1.66:1900")), None, "it names another");
        for bad in ["", "location: https://192.168.1.1/", "location: http://router/", "location: x"]
        {
            assert_eq!(location(bad.as_bytes(), at("192.168.1.1:1900")), None, "{bad}");
        }
    }

    #[test]
    fn the_best_service_of_a_description_is_taken() {
        let [two, one, ppp] = SERVICES;
        let device = at("192.168.1.1:5000");
        let find = |services: &[String]| {
            let text = format!(
                "<root><device><serviceList>{}</serviceList></device></root>",
                services.concat()
            );
            control(text.as_bytes(), device)
        };
        let lease = service("urn:schemas-upnp-org:service:Layer3Forwarding:1", "/l3");
        let found = find(&[lease.clone(), service(ppp, "/ppp"), service(one, "ctl/ip?a=1&amp;b")]);
        assert_eq!(found, Some(Control { path: "/ctl/ip?a=1&b".to_owned(), any_port: false }));
        let found = find(&[service(one, "/1"), service(two, "http://192.168.1.1:5000/2")]);
        assert_eq!(found, Some(Control { path: "/2".to_owned(), any_port: true }));
        assert_eq!(find(&[lease]), None);
    }

    #[test]
    fn a_description_sends_this_node_to_nobody_else_and_injects_nothing() {
        let [two, ..] = SERVICES;
        let device = at("192.168.1.1:5000");
        for bad in
            ["http://8.8.8.8:5000/x", "http://192.168.1.1:22/x", "/x HTTP/1.1&#13;", "/a\r\nb"]
        {
            let text = service(two, bad);
            assert_eq!(control(text.as_bytes(), device), None, "{bad}");
        }
        let long = format!("/{}", "x".repeat(MAX_PATH));
        assert_eq!(control(service(two, &long).as_bytes(), device), None);
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes: Vec<u8>, text: String) {
            let from = at("192.168.1.1:1900");
            location(&bytes, from);
            control(&bytes, from);
            location(format!("location:{text}").as_bytes(), from);
            control(service(SERVICES[0], &text).as_bytes(), from);
        }

        /// Whatever tags come, in whatever order.
        #[test]
        fn tags_in_disorder_are_survived(tags in "(<service>|</service>|<controlURL>|x){0,40}") {
            control(tags.as_bytes(), at("192.168.1.1:1900"));
        }
    }
}
