//! What a hand-over may connect to, and whose certificates it believes.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::settings::field::Field;
use crate::settings::read::Section;
use crate::settings::secret::beside;

/// Private networks, whether without TLS, certificates of one's own.
type Reach = (Vec<IpNet>, bool, Option<Vec<CertificateDer<'static>>>);

/// What may be connected to, and who is believed to be who they say.
pub(super) fn reach(s: &Section<'_>) -> Option<Reach> {
    let private = s.must("allow_private", "expected a list", networks);
    let http = s.must("allow_http", "expected true or false", Field::boolean);
    let certificates = s.may("ca_file", certificates);
    if s.has("ca_file") && certificates.is_none() {
        return None;
    }
    Some((private?, http?, certificates))
}

fn networks(field: &Field<'_>) -> Option<Vec<IpNet>> {
    const RIGHT: &str =
        "expected networks such as [\"10.0.0.0/8\", \"fd00::/8\", \"127.0.0.1/32\"]";
    let Some(list) = field.as_list() else {
        field.wrong(RIGHT);
        return None;
    };
    let network = |field: &Field<'_>| {
        let text = field.as_text().map(str::trim).unwrap_or_default();
        let address = |text: &str| text.parse::<IpAddr>().ok().map(IpNet::from);
        let network = text.parse().ok().or_else(|| address(text));
        if network.is_none() {
            field.wrong(RIGHT);
        }
        network
    };
    let read: Vec<Option<IpNet>> = list.iter().map(network).collect();
    read.into_iter().collect()
}

fn certificates(field: &Field<'_>) -> Option<Vec<CertificateDer<'static>>> {
    let path = beside(
        field.origin(),
        Path::new(field.text("expected the path of a PEM file")?),
    );
    let read = std::fs::read(&path).map_err(|error| error.to_string());
    let parsed = read.and_then(|pem| {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        all.map_err(|error| error.to_string())
    });
    let found = match parsed {
        Ok(all) if !all.is_empty() => return Some(all),
        Ok(_) => "it holds no certificate".to_owned(),
        Err(error) => error,
    };
    field.fault(
        format!("cannot use {}: {found}", path.display()),
        "expected certificates as PEM",
    );
    None
}
