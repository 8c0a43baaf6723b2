//! Authorities and certificates for the tests.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

/// An authority.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, both in PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = authority(name, &[]);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate for hosts, or for a role when it is the client's.
    pub(crate) fn issue(&self, name: &str, hosts: &[&str]) -> Pair {
        self.sign(&params(name, hosts))
    }

    pub(crate) fn issue_expired(&self, name: &str, hosts: &[&str]) -> Pair {
        self.sign(&expired(params(name, hosts)))
    }

    fn sign(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }
}

/// As `openssl req -x509` makes it: marked as an authority's.
pub(crate) fn self_signed(hosts: &[&str]) -> Pair {
    sign_itself(&authority("itself", hosts))
}

pub(crate) fn self_signed_expired(hosts: &[&str]) -> Pair {
    sign_itself(&expired(authority("itself", hosts)))
}

/// Not marked as an authority's.
pub(crate) fn self_signed_plain(hosts: &[&str]) -> Pair {
    sign_itself(&params("itself", hosts))
}

fn sign_itself(params: &CertificateParams) -> Pair {
    let key = KeyPair::generate().unwrap();
    Pair { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

fn params(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority(name: &str, hosts: &[&str]) -> CertificateParams {
    let mut params = params(name, hosts);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn expired(mut params: CertificateParams) -> CertificateParams {
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2020, 12, 31);
    params
}
