package mapping

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// kind is the kind of a token.
type kind byte

const (
	word   kind = iota // an unquoted identifier or keyword, folded to lower case
	quoted             // a quoted identifier, without the quotes
	literal
	number
	parameter // $1
	operator  // one character of punctuation
)

// token is a lexical element of SQL at a byte offset.
type token struct {
	kind   kind
	text   string
	offset int
	end    int
}

// is reports whether the token is the keyword.
func (t token) is(keyword string) bool { return t.kind == word && t.text == keyword }

// op reports whether the token is the character of punctuation. An operator of several characters is several tokens.
func (t token) op(c string) bool { return t.kind == operator && t.text == c }

// name reports whether the token can be an identifier.
func (t token) name() bool { return t.kind == word || t.kind == quoted }

// lexError is a fault at a byte offset of the SQL.
type lexError struct {
	offset  int
	message string
}

// Error is the message without a place, which the [Fragment] adds.
func (e *lexError) Error() string { return e.message }

// lex splits SQL into tokens, leaving comments and white space out. lex follows the Postgres manual, section 4.1, with
// standard_conforming_strings on.
func lex(sql string) ([]token, error) {
	l := lexer{sql: sql}
	for l.pos < len(l.sql) {
		if err := l.next(); err != nil {
			return nil, err
		}
	}
	return l.tokens, nil
}

// lexer is the state of one call of lex. pos is the byte at which the next token begins.
type lexer struct {
	sql    string
	pos    int
	tokens []token
}

// emit adds a token from start to the present position.
func (l *lexer) emit(k kind, text string, start int) {
	l.tokens = append(l.tokens, token{kind: k, text: text, offset: start, end: l.pos})
}

// next reads one token, or skips white space or one comment. It always moves pos, or fails: lex ends.
func (l *lexer) next() error {
	start, c := l.pos, l.sql[l.pos]
	rest := l.sql[l.pos:]
	switch {
	case strings.HasPrefix(rest, "--"):
		l.pos += lineEnd(rest)
	case strings.HasPrefix(rest, "/*"):
		return l.comment()
	case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v':
		l.pos++
	case c == '\'':
		return l.str(start, start, false)
	case c == '"':
		return l.ident(start, start)
	case c == '$':
		return l.dollar()
	case isDigit(c) || (c == '.' && len(rest) > 1 && isDigit(rest[1])):
		l.number()
	case isIdentStart(rest):
		return l.word()
	default:
		_, size := utf8.DecodeRuneInString(rest)
		l.pos += size
		l.emit(operator, rest[:size], start)
	}
	return nil
}

// lineEnd is the length of the present line. A carriage return alone ends a line too, as for the server (scan.l: newline).
func lineEnd(s string) int {
	if i := strings.IndexAny(s, "\r\n"); i >= 0 {
		return i
	}
	return len(s)
}

// comment skips a block comment; block comments nest.
func (l *lexer) comment() error {
	start, depth := l.pos, 0
	for l.pos < len(l.sql) {
		switch rest := l.sql[l.pos:]; {
		case strings.HasPrefix(rest, "/*"):
			depth++
			l.pos += 2
		case strings.HasPrefix(rest, "*/"):
			depth--
			l.pos += 2
			if depth == 0 {
				return nil
			}
		default:
			l.pos++
		}
	}
	return &lexError{start, "a comment does not end"}
}

// continued is the text between the parts of a string that goes on after a line break. The text matters for E'...', whose other parts have
// escapes too.
var continued = regexp.MustCompile(`^(?:[ \t\f\v]|--[^\r\n]*)*[\r\n](?:[ \t\r\n\f\v]|--[^\r\n]*[\r\n])*'`)

// str reads a string whose opening quote is at open; escapes says whether a backslash escapes (E'...').
func (l *lexer) str(start, open int, escapes bool) error {
	for i := open + 1; i < len(l.sql); i++ {
		switch c := l.sql[i]; {
		case c == '\\' && escapes:
			i++
		case c == '\'' && i+1 < len(l.sql) && l.sql[i+1] == '\'':
			i++
		case c == '\'' && escapes && continued.MatchString(l.sql[i+1:]):
			i += len(continued.FindString(l.sql[i+1:]))
		case c == '\'':
			l.pos = i + 1
			l.emit(literal, l.sql[start:l.pos], start)
			return nil
		}
	}
	return &lexError{start, "a string does not end"}
}

// ident reads a quoted identifier whose opening quote is at open. Two quotes inside stand for one.
func (l *lexer) ident(start, open int) error {
	for i := open + 1; i < len(l.sql); i++ {
		if l.sql[i] != '"' {
			continue
		}
		if i+1 < len(l.sql) && l.sql[i+1] == '"' {
			i++
			continue
		}
		l.pos = i + 1
		l.emit(quoted, identifier(strings.ReplaceAll(l.sql[open+1:i], `""`, `"`)), start)
		return nil
	}
	return &lexError{start, "a quoted identifier does not end"}
}

// dollar reads a parameter ($1), a dollar-quoted string ($tag$...$tag$), or a lone dollar sign.
func (l *lexer) dollar() error {
	start, rest := l.pos, l.sql[l.pos+1:]
	n := 0
	for n < len(rest) && isDigit(rest[n]) {
		n++
	}
	if n > 0 {
		l.pos += 1 + n
		l.emit(parameter, l.sql[start:l.pos], start)
		return nil
	}
	for n < len(rest) && rest[n] != '$' && isIdentPart(rest[n]) {
		n++
	}
	if n == len(rest) || rest[n] != '$' {
		l.pos++
		l.emit(operator, "$", start)
		return nil
	}
	tag := l.sql[start : start+n+2]
	body := l.sql[start+len(tag):]
	end := strings.Index(body, tag)
	if end < 0 {
		return &lexError{start, fmt.Sprintf("a string that begins with %s does not end", tag)}
	}
	l.pos = start + len(tag) + end + len(tag)
	l.emit(literal, l.sql[start:l.pos], start)
	return nil
}

// number reads a number, and takes letters and dots behind the digits along (0x1F, 1_000, 1.5e10): no rule here depends on the value, and
// the server refuses junk after a number.
func (l *lexer) number() {
	start := l.pos
	for l.pos < len(l.sql) && (isIdentPart(l.sql[l.pos]) || l.sql[l.pos] == '.') {
		l.pos++
	}
	l.emit(number, l.sql[start:l.pos], start)
}

// word reads an unquoted identifier or keyword, or a string with a letter in front: E'...', B'...', X'...', N'...', U&'...'. In E'...' alone
// a backslash escapes, so the lexer must know the letter to find the end of the string.
func (l *lexer) word() error {
	start := l.pos
	for l.pos < len(l.sql) && (isIdentPart(l.sql[l.pos]) || l.sql[l.pos] == '$') {
		l.pos++
	}
	text := identifier(downcase(l.sql[start:l.pos]))
	if l.pos < len(l.sql) {
		switch {
		case l.sql[l.pos] == '\'' && (text == "e" || text == "b" || text == "x" || text == "n"):
			return l.str(start, l.pos, text == "e")
		case strings.HasPrefix(l.sql[l.pos:], "&'") && text == "u":
			return l.str(start, l.pos+1, false)
		case strings.HasPrefix(l.sql[l.pos:], `&"`) && text == "u":
			return &lexError{start, `identifiers with unicode escapes (U&"...") are not supported; write the characters themselves`}
		}
	}
	l.emit(word, text, start)
	return nil
}

// downcase folds like the server: letters of ASCII only (downcase_identifier in scansup.c; in a database with an encoding of one byte a
// character the server folds others too, and then says that there is no such column).
func downcase(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, name)
}

// maxIdentifier is the length of the server's names in bytes (NAMEDATALEN less the terminator); longer ones are cut.
const maxIdentifier = 63

// identifier cuts a name as the server does, between two characters (truncate_identifier in scansup.c). Otherwise a long name would be another
// name here than there.
func identifier(name string) string {
	if len(name) <= maxIdentifier {
		return name
	}
	end := maxIdentifier
	for !utf8.RuneStart(name[end]) {
		end--
	}
	return name[:end]
}

// isDigit reports whether the byte is a decimal digit of ASCII.
func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// isIdentPart reports whether a byte may stand within an identifier. Every byte of a character beyond ASCII may (ident_cont in scan.l), so bytes
// suffice. The callers add the dollar sign where the server takes one.
func isIdentPart(c byte) bool {
	return c == '_' || isDigit(c) || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

// isIdentStart reports whether an identifier begins at the front of s.
func isIdentStart(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	return r == '_' || unicode.IsLetter(r) || r >= 0x80
}

// statements splits tokens at semicolons. Semicolons inside parentheses, and inside the BEGIN ATOMIC ... END body of a function, do not
// separate.
func statements(tokens []token) [][]token {
	var all [][]token
	var current []token
	parens, blocks := 0, 0
	for i, t := range tokens {
		switch {
		case t.op("("):
			parens++
		case t.op(")"):
			parens--
		case t.is("atomic") && i > 0 && tokens[i-1].is("begin"), t.is("case") && blocks > 0:
			blocks++
		case t.is("end") && blocks > 0:
			blocks--
		}
		if t.op(";") && parens <= 0 && blocks == 0 {
			if len(current) > 0 {
				all = append(all, current)
			}
			current = nil
			continue
		}
		current = append(current, t)
	}
	if len(current) > 0 {
		all = append(all, current)
	}
	return all
}
