package pgerror

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
)

// TLSRemedy is the remedy for an error of a TLS handshake, or of a login without a client's certificate; "" for other errors. authority says
// where the certificates of the server's authority can be given.
func TLSRemedy(err error, authority string) string {
	var (
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
		unknown x509.UnknownAuthorityError
	)
	if err == nil {
		return ""
	}
	text := err.Error()
	switch {
	case errors.As(err, &host):
		return "let host in the connection string be a name in the server's certificate, or give the server a certificate with that name"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "renew the server's certificate (ssl_cert_file), and compare the clocks of both machines"
	case errors.As(err, &invalid):
		return "give the server a certificate for the authentication of servers"
	case errors.As(err, &unknown):
		return "have an authority that is trusted sign the server's certificate, or give the authority's: " + authority
	case strings.Contains(text, "server refused TLS connection"):
		return "switch TLS on at the server: ssl = on, ssl_cert_file and ssl_key_file"
	case strings.Contains(text, "unsupported protocol version"), strings.Contains(text, "protocol version not supported"):
		return "let the server offer TLS 1.2 or newer: ssl_max_protocol_version, and a newer OpenSSL"
	case strings.Contains(text, "valid client certificate"), strings.Contains(text, "certificate required"):
		return "let pg_hba.conf there take a password (scram-sha-256) without clientcert"
	case IsTLS(err):
		return "see what answers there, and which certificate: openssl s_client -starttls postgres -connect host:port"
	}
	return ""
}

// IsTLS reports whether an error is of a TLS handshake. Some errors of crypto/tls have no type.
func IsTLS(err error) bool {
	var (
		header    tls.RecordHeaderError
		alert     tls.AlertError
		verify    *tls.CertificateVerificationError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	if errors.As(err, &header) || errors.As(err, &alert) || errors.As(err, &verify) || errors.As(err, &authority) || errors.As(err, &host) ||
		errors.As(err, &invalid) {
		return true
	}
	return err != nil && SQLState(err) == "" && (strings.Contains(err.Error(), "server refused TLS connection") || strings.Contains(err.Error(), "tls: "))
}
