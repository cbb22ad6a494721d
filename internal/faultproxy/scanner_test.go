package faultproxy

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// However a stream is cut into chunks, its requests end at the same places.
func TestScannerFindsEndsInAnyChunks(t *testing.T) {
	var stream []byte
	var want []int
	send := func(m pgproto3.FrontendMessage, ends bool) {
		t.Helper()
		var err error
		if stream, err = m.Encode(stream); err != nil {
			t.Fatal(err)
		}
		if ends {
			want = append(want, len(stream))
		}
	}
	send(&pgproto3.SSLRequest{}, false)
	send(&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": "SQH"}}, false)
	send(&pgproto3.Query{String: "SELECT 'SHQ'"}, true)
	send(&pgproto3.Parse{Query: "COMMIT"}, false)
	send(&pgproto3.Execute{}, false)
	send(&pgproto3.Sync{}, true)
	send(&pgproto3.CopyData{Data: make([]byte, 300)}, false)
	send(&pgproto3.Flush{}, true)
	send(&pgproto3.Terminate{}, false)

	for size := 1; size <= len(stream); size++ {
		var s scanner
		var got []int
		offset := 0
		for chunk := range slices.Chunk(stream, size) {
			if at := s.scan(chunk); at >= 0 {
				got = append(got, offset+at)
			}
			offset += len(chunk)
		}
		if size == 1 && !slices.Equal(got, want) {
			t.Errorf("chunks of one byte: requests end at %v, want %v", got, want)
		}
		if len(got) == 0 || got[len(got)-1] != want[len(want)-1] {
			t.Errorf("chunks of %d: requests end at %v, want the last of %v", size, got, want)
		}
	}
}

func TestWatchAcrossChunks(t *testing.T) {
	trigger := &trigger{match: []byte("commit")}
	const text = "BEGIN; COMMIT;"
	for size := 1; size <= len(text); size++ {
		var w watch
		offset, found := 0, -1
		for chunk := range slices.Chunk([]byte(text), size) {
			if at := w.find(trigger, chunk); at >= 0 && found < 0 {
				found = offset + at
			}
			offset += len(chunk)
		}
		if found != len(text)-1 {
			t.Errorf("chunks of %d: found at %d, want %d", size, found, len(text)-1)
		}
	}
}
