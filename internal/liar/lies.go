package liar

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"
)

// mouth says the messages of a connection, and lies.
type mouth struct {
	s    *Server
	w    net.Conn
	rnd  *rand.Rand
	held *frame // a message to be said after the next message
}

// hostileTexts are what a server may put where a text belongs: for terminals, logs, pages and statements.
var hostileTexts = []string{"\x1b]0;owned\x07\x1b[2J\x1b[31mred", "a\x00b", "\xff\xfe not UTF-8", "<script>alert(1)</script>", "line\r\nline\n{\"level\":\"error\"}",
	"\u202eright to left", "'; DROP TABLE users; --", "%s%n%x", strings.Repeat("\U0001F4A9", 3000), "", "-1", "9223372036854775807", "-9223372036854775808", "NaN", "1e400",
	"null", "{\"phase\":\"copy\",\"after\":[]}", "[", "{", "t", "0/0", "FFFFFFFF/FFFFFFFF", "infinity"}

func (m *mouth) text() string {
	if m.rnd.IntN(20) == 0 {
		return strings.Repeat("\x1b[31m3 MB ", 3<<20/9)
	}
	return hostileTexts[m.rnd.IntN(len(hostileTexts))]
}

// write sends bytes. A client that does not read ends the connection after some time.
func (m *mouth) write(b []byte) error {
	if err := m.w.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	_, err := m.w.Write(b)
	return err
}

// say sends a message, or a lie in its place.
func (m *mouth) say(f frame) error {
	if held := m.held; held != nil {
		m.held = nil
		if err := m.write(f.bytes()); err != nil {
			return err
		}
		return m.write(held.bytes())
	}
	if m.rnd.Float64() >= m.s.rate {
		return m.write(f.bytes())
	}
	l := lies[m.rnd.IntN(len(lies))]
	m.s.tell(l.name)
	return l.tell(m, f)
}

// lie is a kind of wrong answer. tell gets the right answer.
type lie struct {
	name string
	tell func(m *mouth, f frame) error
}

var lies = []lie{
	{"nothing", func(*mouth, frame) error { return nil }},
	{"twice", func(m *mouth, f frame) error { return m.write(append(f.bytes(), f.bytes()...)) }},
	{"late", func(m *mouth, f frame) error {
		m.held = &f
		return nil
	}},
	{"cut", func(m *mouth, f frame) error {
		return m.write(frame{f.kind, f.body[:m.rnd.IntN(len(f.body)+1)]}.bytes())
	}},
	{"length", func(m *mouth, f frame) error {
		lengths := []uint32{0, 3, 4, 5, 1 << 20, 1 << 30, 1<<31 - 1, 1 << 31, 1<<32 - 1, uint32(len(f.body)) + 5}
		return m.write(f.withLength(lengths[m.rnd.IntN(len(lengths))]))
	}},
	{"bytes", func(m *mouth, f frame) error {
		body := bytes.Clone(f.body)
		for range min(len(body), 1+m.rnd.IntN(3)) {
			body[m.rnd.IntN(len(body))] = byte(m.rnd.IntN(256))
		}
		return m.write(frame{f.kind, body}.bytes())
	}},
	{"kind", func(m *mouth, f frame) error { return m.write(frame{byte(m.rnd.IntN(256)), f.body}.bytes()) }},
	{"error", func(m *mouth, _ frame) error { return m.write(m.refusal('E').bytes()) }},
	{"error first", func(m *mouth, f frame) error { return m.write(append(m.refusal('E').bytes(), f.bytes()...)) }},
	{"notices", func(m *mouth, f frame) error { return m.flood(f, func(int) frame { return m.refusal('N') }) }},
	{"parameters", func(m *mouth, f frame) error {
		return m.flood(f, func(n int) frame { return frame{'S', fmt.Appendf(nil, "p%d\x00%s\x00", n, strings.Repeat("v", 200))} })
	}},
	{"notifications", func(m *mouth, f frame) error {
		return m.flood(f, func(int) frame { return frame{'A', append([]byte{0, 0, 0, 1}, "channel\x00payload\x00"...)} })
	}},
	{"silence", (*mouth).silent},
	{"drip", (*mouth).drip},
	{"close", func(*mouth, frame) error { return errEnough }},
	{"status", func(m *mouth, f frame) error {
		return m.write(append(f.bytes(), frame{'Z', []byte{"ITEx"[m.rnd.IntN(4)]}}.bytes()...))
	}},
	{"tag", func(m *mouth, _ frame) error { return m.write(m.tag().bytes()) }},
	{"copy", func(m *mouth, f frame) error {
		return m.write(append(frame{"GHW"[m.rnd.IntN(3)], []byte{0, 0, 1, 0, 0}}.bytes(), f.bytes()...))
	}},
	{"endless rows", (*mouth).endless},
	{"columns", func(m *mouth, f frame) error { return m.write(m.row(m.rnd.IntN(12), m.rnd.IntN(14)).bytes()) }},
	{"nulls", func(m *mouth, f frame) error { return m.write(nulls(f).bytes()) }},
	{"values", func(m *mouth, f frame) error { return m.write(m.values(f).bytes()) }},
	{"description", func(m *mouth, f frame) error { return m.write(m.description(m.rnd.IntN(12)).bytes()) }},
	{"login", func(m *mouth, f frame) error { return m.write(append(m.login().bytes(), f.bytes()...)) }},
	{"no place", func(m *mouth, f frame) error {
		return m.write(append(frame{"123nIstVKdcv"[m.rnd.IntN(12)], make([]byte, m.rnd.IntN(9))}.bytes(), f.bytes()...))
	}},
}

// silent says nothing until the client has gone, or for a minute.
func (m *mouth) silent(frame) error {
	end, tick := time.Now().Add(time.Minute), time.NewTicker(100*time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(end) && connected(m.w) {
		select {
		case <-m.s.ctx.Done():
			return errEnough
		case <-tick.C:
		}
	}
	return errEnough
}

// drip sends a message slowly.
func (m *mouth) drip(f frame) error {
	for _, b := range f.bytes() {
		if err := m.write([]byte{b}); err != nil {
			return err
		}
		pause := time.NewTimer(20 * time.Millisecond)
		select {
		case <-pause.C:
		case <-m.s.ctx.Done():
			pause.Stop()
			return errEnough
		}
	}
	return nil
}

// flood sends thousands of messages, and the right message.
func (m *mouth) flood(f frame, message func(n int) frame) error {
	for n := range 1 + m.rnd.IntN(5000) {
		if err := m.write(message(n).bytes()); err != nil {
			return err
		}
	}
	return m.write(f.bytes())
}

// endless sends rows until the client has enough: copies of a row, or made up ones.
func (m *mouth) endless(f frame) error {
	row := f.bytes()
	if f.kind != 'D' {
		row = m.row(1, 1).bytes()
	}
	row = bytes.Repeat(row, 1+(64<<10)/len(row))
	for range 20_000 { // more than a gigabyte
		if err := m.write(row); err != nil {
			return err
		}
	}
	return errEnough
}

// refusal is an error or a notice: any class, and hostile text in any field.
func (m *mouth) refusal(kind byte) frame {
	states := []string{"00000", "08006", "0A000", "22P02", "22021", "23505", "23503", "25006", "25P02", "28P01", "3D000", "40001", "40P01", "42501", "42601", "42703",
		"42883", "42P01", "42P05", "26000", "53100", "53200", "53300", "54000", "55P03", "57014", "57P01", "57P03", "58030", "XX000", "XX001", "\x1b[31m", "", "zzzzzzzzzzzz"}
	var b bytes.Buffer
	field := func(name byte, text string) {
		b.WriteByte(name)
		b.WriteString(text)
		b.WriteByte(0)
	}
	field('S', []string{"ERROR", "FATAL", "PANIC", "WARNING", m.hint()}[m.rnd.IntN(5)])
	field('C', states[m.rnd.IntN(len(states))])
	if kind == 'E' {
		field('M', m.text())
	} else {
		field('M', m.hint())
	}
	for range m.rnd.IntN(6) {
		field("DHPpqWstcdnFLR"[m.rnd.IntN(14)], m.hint())
	}
	if m.rnd.IntN(8) > 0 { // else without its end
		b.WriteByte(0)
	}
	return frame{kind, b.Bytes()}
}

// hint is a short hostile text.
func (m *mouth) hint() string {
	text := hostileTexts[m.rnd.IntN(len(hostileTexts))]
	return text[:min(len(text), 200)]
}

func (m *mouth) tag() frame {
	tags := []string{"COMMIT", "ROLLBACK", "BEGIN", "INSERT 0 -1", "INSERT 0 18446744073709551616", "UPDATE 1", "SELECT 99999999", "", "COPY 1", m.hint()}
	return frame{'C', append([]byte(tags[m.rnd.IntN(len(tags))]), 0)}
}

// row is a row that says it has so many columns, and has others.
func (m *mouth) row(says, has int) frame {
	if m.rnd.IntN(4) == 0 {
		says = []int{-1, 1 << 15, 1<<16 - 1}[m.rnd.IntN(3)]
	} else if m.rnd.IntN(2) == 0 {
		says = has
	}
	body := binary.BigEndian.AppendUint16(nil, uint16(says))
	for range has {
		switch m.rnd.IntN(8) {
		case 0:
			body = binary.BigEndian.AppendUint32(body, 1<<32-1) // NULL
		case 1:
			body = binary.BigEndian.AppendUint32(body, []uint32{1<<32 - 2, 1 << 31, 1<<31 - 1, 100}[m.rnd.IntN(4)])
		default:
			text := m.hint()
			body = append(binary.BigEndian.AppendUint32(body, uint32(len(text))), text...)
		}
	}
	return frame{'D', body}
}

// cells are the values of a row, nil for NULL; not ok where the message is no row.
func cells(f frame) (values [][]byte, ok bool) {
	if f.kind != 'D' || len(f.body) < 2 {
		return nil, false
	}
	r := bytes.NewReader(f.body[2:])
	for range binary.BigEndian.Uint16(f.body) {
		var n int32
		if binary.Read(r, binary.BigEndian, &n) != nil {
			return nil, false
		}
		if n < 0 {
			values = append(values, nil)
			continue
		}
		v := make([]byte, n)
		if _, err := io.ReadFull(r, v); err != nil {
			return nil, false
		}
		values = append(values, v)
	}
	return values, true
}

func rowOf(values [][]byte) frame {
	body := binary.BigEndian.AppendUint16(nil, uint16(len(values)))
	for _, v := range values {
		if v == nil {
			body = binary.BigEndian.AppendUint32(body, 1<<32-1)
			continue
		}
		body = append(binary.BigEndian.AppendUint32(body, uint32(len(v))), v...)
	}
	return frame{'D', body}
}

// nulls is a row with NULL everywhere.
func nulls(f frame) frame {
	values, ok := cells(f)
	if !ok {
		return f
	}
	return rowOf(make([][]byte, len(values)))
}

// values is a row with another value in some places, or one column more or less.
func (m *mouth) values(f frame) frame {
	values, ok := cells(f)
	if !ok {
		return f
	}
	for range 1 + m.rnd.IntN(2) {
		switch n := m.rnd.IntN(8); {
		case n == 0:
			values = append(values, []byte(m.hint()))
		case len(values) == 0:
		case n == 1:
			values = values[1:]
		default:
			values[m.rnd.IntN(len(values))] = []byte(m.text())
		}
	}
	return rowOf(values)
}

// description describes columns of random types.
func (m *mouth) description(columns int) frame {
	body := binary.BigEndian.AppendUint16(nil, uint16(columns))
	for range columns {
		body = append(append(body, strings.ReplaceAll(m.hint(), "\x00", "0")...), 0, 0, 0, 0, 0, 0, 0)
		body = binary.BigEndian.AppendUint32(body, []uint32{25, 23, 20, 16, 17, 1700, 114, 3802, 0, 1<<32 - 1}[m.rnd.IntN(10)])
		body = append(body, 0, 8, 255, 255, 255, 255, 0, byte(m.rnd.IntN(3)))
	}
	return frame{'T', body}
}

// login is a request about the login.
func (m *mouth) login() frame {
	request := func(code uint32, rest string) frame {
		return frame{'R', append(binary.BigEndian.AppendUint32(nil, code), rest...)}
	}
	all := []frame{request(0, ""), request(2, ""), request(3, ""), request(5, "salt"), request(7, ""), request(9, ""), request(10, "SCRAM-SHA-256\x00\x00"),
		request(10, "SCRAM-SHA-256-PLUS\x00OAUTHBEARER\x00\x00"), request(10, ""), request(10, m.hint()+"\x00\x00"), request(11, "r=x,s=eA==,i=10000000"),
		request(12, "v=eA=="), request(99, ""), request(1<<31, ""), {'v', []byte{0, 3, 0, 2, 0, 0, 0, 1, 'x', 0}}, {'R', nil}}
	return all[m.rnd.IntN(len(all))]
}
