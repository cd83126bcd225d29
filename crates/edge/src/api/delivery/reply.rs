//! The reply to a delivery call: the sections that were asked for, each empty, as Cameo picks no offers (TARGET_API §1).

use http::HeaderMap;
use http::Uri;
use http::header::HOST;

use super::request::{DeliveryRequest, Mbox, each, inner, said};
use crate::api::visit::Text;
use crate::api::write;

/// What stands for the host where the request names none that could be one.
const NO_HOST: &str = "cameo";
/// Characters of a host name (RFC 1035, 2.3.4, and a dot at its end).
const HOST_CHARS: usize = 254;

/// What the reply says beside what was asked.
pub(super) struct Told<'r> {
    pub(super) client: &'r str,
    pub(super) request_id: &'r str,
    pub(super) tnt_id: &'r str,
    pub(super) edge_host: &'r str,
    pub(super) attributes_refused: bool,
}

/// The host of the request, in a form that is never four parts with dots between: the vendor's SDKs would read the name of a
/// cluster out of it and send the next call there. A name of four parts, or an IPv4 address, ends with a dot, which means
/// the same (RFC 1034, 3.1) and makes five.
pub(super) fn edge_host(uri: &Uri, headers: &HeaderMap) -> String {
    let header = headers.get(HOST).and_then(|value| value.to_str().ok());
    let authority = header.or_else(|| uri.authority().map(http::uri::Authority::as_str)).unwrap_or_default().trim();
    let host = if authority.starts_with('[') {
        authority.split_once(']').map_or("", |(host, _)| host)
    } else {
        authority.split(':').next().unwrap_or_default()
    };
    let host = host.trim_end_matches('.');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '[' | ':');
    if host.is_empty() || host.len() > HOST_CHARS || !host.chars().all(plain) {
        return NO_HOST.to_owned();
    }
    let close = if host.starts_with('[') { "]" } else { "" };
    let dot = if host.split('.').count() == 4 { "." } else { "" };
    [host, close, dot].concat()
}

/// Writes the reply.
pub(super) fn write(request: &DeliveryRequest<'_>, told: &Told<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"{\"status\":200");
    field(&mut out, "requestId", told.request_id);
    field(&mut out, "client", told.client);
    out.extend_from_slice(b",\"id\":{\"tntId\":");
    write::string(&mut out, told.tnt_id);
    ids(&mut out, request);
    out.push(b'}');
    field(&mut out, "edgeHost", told.edge_host);
    if let Some(execute) = inner(&request.execute) {
        out.extend_from_slice(b",\"execute\":{");
        sections(&mut out, execute.page_load.is_some(), execute.mboxes.is_some().then(|| each(&execute.mboxes)), false);
        out.push(b'}');
    }
    if let Some(prefetch) = inner(&request.prefetch) {
        out.extend_from_slice(b",\"prefetch\":{");
        let mboxes = prefetch.mboxes.is_some().then(|| each(&prefetch.mboxes));
        sections(&mut out, prefetch.page_load.is_some(), mboxes, prefetch.views.is_some());
        out.push(b'}');
    }
    if request.notifications.is_some() {
        out.extend_from_slice(b",\"notifications\":[");
        for (at, notification) in each(&request.notifications).enumerate() {
            out.extend_from_slice(if at > 0 { b",{\"id\":" } else { b"{\"id\":" });
            write::string(&mut out, said(&notification.id).unwrap_or_default());
            out.extend_from_slice(b",\"result\":\"success\"}");
        }
        out.push(b']');
    }
    if told.attributes_refused {
        let text = "the profile would exceed 64 KB or 1,000 attributes: the visit was counted, its profile parameters were \
                    not stored";
        field(&mut out, "warning", text);
    }
    out.push(b'}');
    out
}

fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(b',');
    write::string(out, name);
    out.push(b':');
    write::string(out, value);
}

/// The ids that the call named, as they came.
fn ids(out: &mut Vec<u8>, request: &DeliveryRequest<'_>) {
    let Some(id) = request.ids() else { return };
    for (name, value) in
        [("thirdPartyId", &id.third_party_id), ("marketingCloudVisitorId", &id.marketing_cloud_visitor_id)]
    {
        if let Some(value) = said(value) {
            field(out, name, value);
        }
    }
    if each(&id.customer_ids).len() == 0 {
        return;
    }
    out.extend_from_slice(b",\"customerIds\":[");
    for (at, customer) in each(&id.customer_ids).enumerate() {
        out.extend_from_slice(if at > 0 { b",{" } else { b"{" });
        let mut first = true;
        for (name, value) in [
            ("id", &customer.id),
            ("integrationCode", &customer.integration_code),
            ("authenticatedState", &customer.authenticated_state),
        ] {
            let Some(Text(value)) = value else { continue };
            if !first {
                out.push(b',');
            }
            first = false;
            write::string(out, name);
            out.push(b':');
            write::string(out, value);
        }
        out.push(b'}');
    }
    out.push(b']');
}

fn sections<'r, 'a: 'r>(
    out: &mut Vec<u8>,
    page_load: bool,
    mboxes: Option<impl Iterator<Item = &'r Mbox<'a>>>,
    views: bool,
) {
    let mut comma = "";
    if page_load {
        out.extend_from_slice(b"\"pageLoad\":{\"options\":[]}");
        comma = ",";
    }
    if let Some(mboxes) = mboxes {
        out.extend_from_slice(comma.as_bytes());
        comma = ",";
        out.extend_from_slice(b"\"mboxes\":[");
        for (at, mbox) in mboxes.enumerate() {
            let index = mbox.index.map_or(at as i64, |index| index.0);
            let open = if at > 0 { ",{" } else { "{" };
            out.extend_from_slice(format!("{open}\"index\":{index},\"name\":").as_bytes());
            write::string(out, said(&mbox.name).unwrap_or_default());
            out.extend_from_slice(b",\"options\":[]}");
        }
        out.push(b']');
    }
    if views {
        // Those that an activity is for, and there are none.
        out.extend_from_slice(comma.as_bytes());
        out.extend_from_slice(b"\"views\":[]");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn an_edge_host_never_has_four_parts() {
        for (host, expected) in [
            ("shop.example:8080", "shop.example"),
            ("127.0.0.1:8080", "127.0.0.1."),
            ("127.0.0.1", "127.0.0.1."),
            ("mboxedge28.tt.omtrdc.net", "mboxedge28.tt.omtrdc.net."),
            ("a.b.c.", "a.b.c"),
            ("a.b.c.d..", "a.b.c.d."),
            ("a.b.c.d.e", "a.b.c.d.e"),
            ("[::1]:8080", "[::1]"),
            ("[::ffff:127.0.0.1]:80", "[::ffff:127.0.0.1]."),
            ("localhost", "localhost"),
            ("", NO_HOST),
            (":8080", NO_HOST),
            ("...", NO_HOST),
            ("a\"b", NO_HOST),
            ("<script>", NO_HOST),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_str(host).unwrap());
            let told = edge_host(&Uri::from_static("/"), &headers);
            assert_eq!(told, expected, "{host}");
            assert_ne!(told.split('.').count(), 4, "{host}");
        }
        assert_eq!(edge_host(&Uri::from_static("/"), &HeaderMap::new()), NO_HOST);
        assert_eq!(edge_host(&Uri::from_static("http://h.example:1/x"), &HeaderMap::new()), "h.example");
    }
}
