// Package tenantdsn makes a connection's configuration of a connection string written by a tenant.
//
// Such a string is hostile input: its author chooses host, port and server, and so may try to reach the inside of the operator's network,
// to read the operator's files, or to have the primary's password sent to a server of the author's. And the server may send anything.
//
// [Parse] reads the string itself, and gives pgx a configuration in which nothing is left to the environment, the home directory or a file.
// Nine keys count. Keys that other programs write, and that mean nothing here, are passed over by their names; every other key is refused.
// [Policy] says where a connection may go; addresses are checked at dialling, after DNS. A string that asks for weaker encryption than the
// policy gets the policy's. A guard on the byte stream bounds the memory and the work a server can cause.
//
// Rejected: refusing weaker modes, because providers' strings say sslmode=require or prefer and work with verify-full; passing unknown keys
// over, because an unknown key may say something that the tenant relies on; passing options on to the server, because a pooler refuses them.
package tenantdsn

// Error is a fault of a connection string or of the server behind the string. The text holds no part of a password.
type Error struct {
	class, text, remedy string
}

func (e *Error) Error() string { return e.text }

// Class is the text a tenant may read: configuration, blocked or protocol.
func (e *Error) Class() string { return e.class }

// Remedy is advice to the tenant or the operator, "" where nothing is known.
func (e *Error) Remedy() string { return e.remedy }

const (
	classConfiguration = "configuration"
	classBlocked       = "blocked"
	classProtocol      = "protocol"
)
