#include "probes/filler.h"

#include <iterator>
#include <string_view>

#include "src/base/mix.h"

namespace probes {
namespace {

constexpr std::string_view kSentences[] = {
    "the baker leaves the shop door open so that the street smells of bread",
    "a narrow path follows the stream until both reach the lake",
    "the ferry waits for the last passengers before it turns into the wind",
    "children draw maps of islands that nobody has visited",
    "the librarian repairs torn pages with thin paper and patience",
    "an old clock in the hall runs slow but is never replaced",
    "the gardener moves the young trees away from the wall",
    "rain collects in the stone basin behind the school",
    "the carpenter measures every board twice and still keeps a spare",
    "farmers bring apples and cheese to the square before sunrise",
    "the orchestra tunes its instruments while the audience finds its seats",
    "a painter mixes grey from every colour that is left on the palette",
    "the lighthouse keeper writes down the weather in a thick notebook",
    "two neighbours share one ladder and argue about where it belongs",
    "the train crosses the valley on a bridge of brick arches",
    "a shepherd counts the flock by the sound of the bells",
    "the kitchen window looks over rows of beans and onions",
    "students copy the drawing of a leaf under the microscope",
    "the potter throws away the bowls that lean to one side",
    "a cat sleeps on the warm bonnet of the delivery van",
    "the printer hangs wet posters from a line across the room",
    "travellers ask for directions and are given stories instead",
    "the mill wheel turns only when the sluice is fully open",
    "a tailor keeps a box of buttons sorted by size and shade",
    "the choir rehearses in the cold church with coats on",
    "geese fly low over the marsh and settle near the reeds",
    "the postman knows every dog on the hill by its bark",
    "a fisherman mends nets and watches the clouds gather",
    "the bridge is closed while workers paint the railings",
    "an engineer listens to the pump and tightens a single bolt",
    "the museum lends its oldest globe to a school for a season",
    "bees return to the hive before the evening becomes cool",
    "the tram stops at the corner even when nobody waits there",
    "a violin maker taps the wood and listens for its tone",
    "the market hall has a roof of glass and green iron",
    "walkers leave small stones on the cairn at the pass",
    "the doctor rides a bicycle with a basket full of papers",
    "snow covers the vineyard and softens the noise of the road",
    "a glassblower turns the pipe slowly above the flame",
    "the team plants hedges to keep the wind from the fields",
    "the harbour crane lifts timber from the deck to the quay",
    "a teacher explains the tides with a bowl of water and a lamp",
    "the cook saves the broth and throws away the bones",
    "swallows build under the eaves where the plaster is rough",
    "the weaver chooses blue thread for the border of the cloth",
    "an astronomer covers the dome when the fog comes in",
    "the blacksmith lets the iron cool before filing the edge",
    "a child follows the parade along the whole river bank",
    "the surveyor marks the corner of the field with a white post",
    "the theatre stores its costumes in cedar chests",
    "a mason fits the last stone of the arch without mortar",
    "the village band plays slowly because the drummer is tired",
    "the botanist presses flowers between sheets of heavy paper",
    "a canal boat carries gravel past the paper factory",
    "the guide tells the group to keep to the left of the cave",
    "the innkeeper lights the stove before the walkers arrive",
    "a sculptor covers the clay with damp cloth for the night",
    "the editor removes a sentence and reads the page aloud",
    "the stable smells of hay, leather and rain",
    "the conductor checks the brakes before the long descent"};

constexpr std::string_view kOpenings[] = {"",
                                          "In spring, ",
                                          "On most mornings, ",
                                          "Late in the year, ",
                                          "As far as anyone remembers, ",
                                          "Now and then, ",
                                          "On quiet days, ",
                                          "Before the holidays, ",
                                          "When the light fades, ",
                                          "According to the neighbours, ",
                                          "After lunch, ",
                                          "In the northern quarter, "};

constexpr uint64_t kCount = std::size(kSentences) * std::size(kOpenings);
static_assert(std::size(kSentences) == 60 && kCount == 720);

}  // namespace

std::string filler_sentence(uint64_t seed, int index) {
  // An affine walk through all combinations: 77 has no factor in common with 720, so none is left out or
  // repeated.
  uint64_t at = (static_cast<uint64_t>(index) * 77 + base::mix(seed, 0) % kCount) % kCount;
  std::string_view sentence = kSentences[at % std::size(kSentences)];
  std::string result(kOpenings[at / std::size(kSentences)]);
  result += sentence;
  if (result[0] >= 'a' && result[0] <= 'z') {
    result[0] = static_cast<char>(result[0] - 'a' + 'A');
  }
  return result + ".";
}

}  // namespace probes
