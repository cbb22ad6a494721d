package faultproxy

import "encoding/binary"

// scanner follows the messages of a client, to find where a request ends. A scanner keeps at most a header.
type scanner struct {
	typed  bool   // the start-up message is past: messages begin with a type byte
	header []byte // of the message now beginning, until the header is whole
	kind   byte
	body   int // bytes left of the message
}

// Requests ahead of the start-up message, in the form of a start-up message: for TLS and for GSS encryption. The
// start-up message follows.
const (
	sslRequest = 80877103
	gssRequest = 80877104
)

// scan takes the next bytes and returns the offset behind the last request ending there, or -1. A request ends with a
// message after which the client waits: Query, Sync or Flush.
func (s *scanner) scan(chunk []byte) int {
	ended := -1
	for at := 0; at < len(chunk); {
		if s.body == 0 {
			s.header = append(s.header, chunk[at])
			at++
			s.begin()
		} else {
			n := min(s.body, len(chunk)-at)
			s.body -= n
			at += n
		}
		if s.body == 0 && s.kind != 0 {
			if s.kind == 'Q' || s.kind == 'S' || s.kind == 'H' {
				ended = at
			}
			s.kind = 0
		}
	}
	return ended
}

// begin reads a whole header. The header of a session's start is read with the code: eight bytes.
func (s *scanner) begin() {
	if !s.typed {
		if len(s.header) < 8 {
			return
		}
		s.body = max(0, int(binary.BigEndian.Uint32(s.header))-8)
		code := binary.BigEndian.Uint32(s.header[4:])
		s.typed = code != sslRequest && code != gssRequest
		s.header = s.header[:0]
		return
	}
	if len(s.header) < 5 {
		return
	}
	s.kind = s.header[0]
	s.body = max(0, int(binary.BigEndian.Uint32(s.header[1:]))-4)
	s.header = s.header[:0]
}
