package meta

import (
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
)

// MaxTopicName is the longest topic name, so that "<name>-<partition>" fits a file name.
const MaxTopicName = 249

// ValidateName says whether a topic may have this name, by Kafka's rules.
func ValidateName(name string) error {
	switch {
	case name == "":
		return refuse(kerr.InvalidTopicException, "the topic name is empty")
	case name == "." || name == "..":
		return refuse(kerr.InvalidTopicException, "the topic name cannot be %q", name)
	case len(name) > MaxTopicName:
		return refuse(kerr.InvalidTopicException, "the topic name has %d characters, the limit is %d", len(name), MaxTopicName)
	}
	for i := range len(name) {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-' {
			continue
		}
		return refuse(kerr.InvalidTopicException, "the topic name %q has a character other than ASCII letters, digits, '.', '_' and '-'", name)
	}
	return nil
}

// collision finds a topic whose name differs only in '.' for '_', or the other way round: metric names fold the two.
func (i *Image) collision(name string) (string, bool) {
	if !strings.ContainsAny(name, "._") {
		return "", false
	}
	for other := range i.Topics {
		if len(other) == len(name) && other != name && sameFolded(other, name) {
			return other, true
		}
	}
	return "", false
}

func sameFolded(a, b string) bool {
	for i := range len(a) {
		x, y := a[i], b[i]
		if x == '.' {
			x = '_'
		}
		if y == '.' {
			y = '_'
		}
		if x != y {
			return false
		}
	}
	return true
}

// checkNewName is what CreateTopic asks of a name. Of several colliding names the smallest is named: the message is
// part of a replicated result.
func (i *Image) checkNewName(name string) error {
	if err := ValidateName(name); err != nil {
		return err
	}
	if i.Topics[name] != nil {
		return refuse(kerr.TopicAlreadyExists, "Topic '%s' already exists.", name)
	}
	if other, ok := i.collision(name); ok {
		return refuse(kerr.InvalidTopicException, "Topic '%s' collides with existing topic: %s", name, other)
	}
	return nil
}
