package mapping

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLex(t *testing.T) {
	for _, c := range []struct {
		sql    string
		tokens []string // the text of each; w: a word, q: quoted, l: literal, n: number, p: parameter, o: operator
	}{
		{"SELECT a FROM b", []string{"w:select", "w:a", "w:from", "w:b"}},
		{"a /* one /* two */ still */ b", []string{"w:a", "w:b"}},
		{"a -- to the end ' \" /* $$\nb --", []string{"w:a", "w:b"}},
		{"a--x\rb", []string{"w:a", "w:b"}},
		{`'it''s' 'a\' b`, []string{"l:'it''s'", `l:'a\'`, "w:b"}},
		{`E'a\'b' e'\\' x`, []string{`l:E'a\'b'`, `l:e'\\'`, "w:x"}},
		{`B'01' X'ff' n'x' U&'\00e9' U & 'x'`, []string{"l:B'01'", "l:X'ff'", "l:n'x'", `l:U&'\00e9'`, "w:u", "o:&", "l:'x'"}},
		{"E'a' -- on\n -- and on\n '\\' b' c 'd'\n'\\' e", []string{"l:E'a' -- on\n -- and on\n '\\' b'", "w:c", "l:'d'", `l:'\'`, "w:e"}},
		{`E'a' 'b\' c`, []string{"l:E'a'", `l:'b\'`, "w:c"}},
		{`some'x'`, []string{"w:some", "l:'x'"}},
		{`"quo""ted" "Case"`, []string{`q:quo"ted`, "q:Case"}},
		{"$$ ' $x$ $$ $x$ $$ \" $x$ $Tag_1é$ ; $Tag_1é$", []string{"l:$$ ' $x$ $$", "l:$x$ $$ \" $x$", "l:$Tag_1é$ ; $Tag_1é$"}},
		{"$1 $23x a$1 a$b$c", []string{"p:$1", "p:$23", "w:x", "w:a$1", "w:a$b$c"}},
		{"$ $x", []string{"o:$", "o:$", "w:x"}},
		{"1 1.5 .5 1e10 0xFF 1_000 1.a", []string{"n:1", "n:1.5", "n:.5", "n:1e10", "n:0xFF", "n:1_000", "n:1.a"}},
		{"Ünï_Códé日本", []string{"w:Ünï_códé日本"}},
		{"a.b::text[],*", []string{"w:a", "o:.", "w:b", "o::", "o::", "w:text", "o:[", "o:]", "o:,", "o:*"}},
		{"- - a - b --c", []string{"o:-", "o:-", "w:a", "o:-", "w:b"}},
		{"", nil},
	} {
		tokens, err := lex(c.sql)
		if err != nil {
			t.Errorf("%s: %v", c.sql, err)
			continue
		}
		var got []string
		for _, tok := range tokens {
			got = append(got, string("wqlnpo"[tok.kind])+":"+tok.text)
			if tok.offset < 0 || tok.end <= tok.offset || tok.end > len(c.sql) {
				t.Errorf("%s: %q is from %d to %d", c.sql, tok.text, tok.offset, tok.end)
			} else if raw := c.sql[tok.offset:tok.end]; tok.kind != quoted && !strings.EqualFold(raw, tok.text) {
				t.Errorf("%s: %q stands where %q is", c.sql, tok.text, raw)
			}
		}
		if diff := cmp.Diff(c.tokens, got); diff != "" {
			t.Errorf("%s (-expected +found):\n%s", c.sql, diff)
		}
	}
}

func TestLexFaults(t *testing.T) {
	for _, c := range []struct {
		sql, message string
		offset       int
	}{
		{"a /* /* */", "comment", 2},
		{"ab 'x", "string does not end", 3},
		{`ab E'x\'`, "string does not end", 3},
		{`ab "x""`, "quoted identifier", 3},
		{"ab $t$ x $T$", "begins with $t$", 3},
		{`ab U&"x"`, "unicode escapes", 3},
	} {
		_, err := lex(c.sql)
		fault, ok := err.(*lexError) //nolint:errorlint // lex returns it unwrapped
		if !ok || fault.offset != c.offset || !strings.Contains(fault.message, c.message) {
			t.Errorf("%s: %v", c.sql, err)
		}
	}
}

func TestStatements(t *testing.T) {
	for _, c := range []struct {
		sql   string
		parts []string
	}{
		{";; a; b ;; c;", []string{"a", "b", "c"}},
		{"f(a; b); c", []string{"f(a; b)", "c"}},
		{"a ';' \";\" $$;$$ /* ; */ -- ;\n; b", []string{"a ';' \";\" $$;$$", "b"}},
		{"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 2 END; SELECT 3; END; SELECT 4",
			[]string{"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 2 END; SELECT 3; END", "SELECT 4"}},
		{"BEGIN; SELECT CASE WHEN a THEN b END; END", []string{"BEGIN", "SELECT CASE WHEN a THEN b END", "END"}},
		{"SELECT begin, atomic; x", []string{"SELECT begin, atomic", "x"}},
		{"", nil},
		{" -- only\n ; ", nil},
	} {
		tokens, err := lex(c.sql)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range statements(tokens) {
			got = append(got, c.sql[s[0].offset:s[len(s)-1].end])
		}
		if diff := cmp.Diff(c.parts, got); diff != "" {
			t.Errorf("%s (-expected +found):\n%s", c.sql, diff)
		}
	}
}
